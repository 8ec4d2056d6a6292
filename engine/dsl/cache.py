"""The cache of checked rules on disk: what was parsed and checked once is read back in milliseconds.

Entries are JSON with a digest.  An entry that is damaged, or was made under other conditions, is made again.
``ENGINE_CACHE_DIR`` moves the cache; a directory that cannot be written is told once and done without.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.dsl import encoding
from engine.dsl.source import BUILT_IN, Source
from engine.errors import FileError
from engine.storage import installed_pytorch
from engine.storage.regular_file import read_regular
from engine.tensorrt import Capabilities

if TYPE_CHECKING:
    from engine.dsl.checked import Checked
    from engine.dsl.rule import Rule

_LOG = logging.getLogger("engine.rules")
# Rule sets differ by user files and versions; old ones are not missed.  Some more than that go at once.
_ENTRIES = 32
_MORE = 16
# Seconds after which a file that is not finished has no writer any more.
_ABANDONED = 600.0
_warned = False


def directory() -> Path:
    """Where entries are kept."""
    chosen = os.environ.get("ENGINE_CACHE_DIR")
    if chosen:
        return Path(chosen) / "rules"
    import platformdirs

    return Path(platformdirs.user_cache_dir("engine")) / "rules"


def key(
    texts: str,
    sources: Sequence[Source],
    target: Capabilities | None,
    hosts: Mapping[str, Callable[..., Any]],
) -> str:
    """The name of an entry: everything that the outcome of checking depends on.

    Args:
        texts: digest of the rules' texts and of the target.
    """
    import engine

    conditions = [
        encoding.FORMAT,
        engine.__version__,
        platform.python_version(),
        installed_pytorch.version(),
        texts,
        [(source.path, source.stem, source.level) for source in sources],
        _tensorrt(target),
        sorted((name, str(inspect.signature(function))) for name, function in hosts.items()),
        _code(),
    ]
    return hashlib.blake2b(json.dumps(conditions).encode(), digest_size=20).hexdigest()


def _tensorrt(target: Capabilities | None) -> str | None:
    """The bindings that layer declarations were checked against, if they were."""
    from engine.dsl.bindings import bindings_for

    bindings = bindings_for(target)
    return None if bindings is None else bindings.name()


@functools.cache
def _code() -> list[tuple[str, int, int]]:
    """Size and time of the modules that check rules: in a checkout they change without a new version."""
    package = Path(__file__).parent
    files = [*package.rglob("*.py"), *package.rglob("*.lark")]
    stats = [(file.relative_to(package).as_posix(), file.stat()) for file in sorted(files) if file.exists()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def load(entry: str, *, whole: bool = False) -> Checked | None:
    """A cached outcome; None if there is none, or none that can be trusted.

    Args:
        whole: only one that does not build on another one.
    """
    path = directory() / f"{entry}.json"
    try:
        found = parse(entry, read_regular(path), whole=whole)
        with contextlib.suppress(OSError):
            os.utime(path)  # what is used is not old
        return found
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever a file can hold that we did not write
        _LOG.info("rule cache entry %s is made again: %s", entry, error)
        return None


def parse(entry: str, data: bytes, *, whole: bool = False) -> Checked | None:
    """The outcome in an entry's file; None where packages that it depends on are not as they were.

    Raises:
        FileError: it is damaged, or of another version.
    """
    try:
        digest, _, payload = data.partition(b"\n")
        if digest.decode() != _digest(entry, payload):
            raise ValueError("its digest is wrong")
        content = json.loads(payload)
        if "base" not in content:
            return _decode(content)
        if whole:
            raise ValueError("it builds on one that builds on another one")
        return _decode_on(content)
    except Exception as error:  # whatever somebody wrote there with a right digest
        raise FileError(f"{directory() / entry}.json is damaged: {type(error).__name__}: {error}") from None


def store(entry: str, checked: Checked, base: tuple[str, Checked] | None = None) -> None:
    """Keep an outcome; failing to is not an error.

    Args:
        base: entry and outcome of the built-in rules, which need not be written again.
    """
    try:
        # Another layer of the same name may take a built-in one's place.
        on_base = base is not None and checked.layers is base[1].layers
        content = _encode_on(checked, *base) if base is not None and on_base else _encode(checked)
        payload = json.dumps(content, separators=(",", ":"))
        folder = directory()
        folder.mkdir(parents=True, exist_ok=True)
        # Entries are whole files that take their place at once, so only clearing out takes turns.
        _write(folder / f"{entry}.json", entry, payload)
        _tidy(folder)
    except (OSError, ValueError) as error:
        _warn(error)


def _tidy(folder: Path) -> None:
    """Remove what is old, or was left behind; one process at a time, and only where there is something to do."""
    names = [path.name for path in folder.iterdir()]
    if sum(name.endswith(".json") for name in names) <= _ENTRIES + _MORE and not any(
        ".json." in name for name in names
    ):
        return
    import filelock

    with contextlib.suppress(filelock.Timeout), filelock.FileLock(folder / ".lock", timeout=0):
        _clear(folder)
        _prune(folder)


def load_tables(name: str) -> str | None:
    """A text of :func:`store_tables`; None if there is none, or none that can be trusted."""
    try:
        digest, _, data = read_regular(directory() / "tables" / f"{name}.json").partition(b"\n")
        return data.decode("utf-8") if digest.decode() == _digest(name, data) else None
    except (OSError, ValueError, FileError):
        return None


def store_tables(name: str, text: str) -> None:
    """Keep a text that depends on nothing but its name; failing to is not an error."""
    try:
        folder = directory() / "tables"
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / f"{name}.json", name, text)
        _clear(folder)
    except OSError as error:
        _warn(error)


def _digest(entry: str, payload: bytes) -> str:
    digest = hashlib.blake2b(f"{entry}\n".encode(), digest_size=20)
    digest.update(payload)
    return digest.hexdigest()


def _write(path: Path, entry: str, text: str) -> None:
    """Write a file so that readers see all of it or the file before."""
    data = text.encode("utf-8")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(f"{_digest(entry, data)}\n".encode() + data)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _clear(folder: Path) -> None:
    """Remove what writers that were killed left behind."""
    for path in folder.glob(".*.json.*"):
        with contextlib.suppress(OSError):  # another process was faster
            if time.time() - path.lstat().st_mtime > _ABANDONED:
                path.unlink()


def _prune(folder: Path) -> None:
    ages: dict[Path, float] = {}
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError):  # another process was faster
            ages[path] = path.lstat().st_mtime
    for path in sorted(ages, key=lambda path: ages[path], reverse=True)[_ENTRIES:]:
        with contextlib.suppress(OSError):
            path.unlink()


def _warn(error: Exception) -> None:
    global _warned
    if not _warned:
        _warned = True
        _LOG.warning("rules are not cached: %s; set ENGINE_CACHE_DIR to a directory that can be written", error)


def _encode(checked: Checked) -> dict[str, Any]:
    cached = next((rule for rule in checked.rules if isinstance(rule, encoding.CachedRule)), None)
    encoder = encoding.Encoder(None if cached is None else cached._decoder, checked.macros)
    bodies: dict[str, int] = {}
    content = {
        "rules": [encoder.rule(rule, bodies) for rule in checked.rules],
        "inactive": [[encoder.rule(rule, bodies), reason] for rule, reason in checked.inactive],
        "layers": encoder.items(checked.layers),
        "macros": encoder.items(checked.macros),
        "externs": encoder.items(checked.externs),
        "patterns": encoder.items(checked.patterns),
        "overridden": checked.overridden,
        "foreign": dict(checked.foreign),
        "emitted": {name: encoder.encode(dict(ops)) for name, ops in checked.emitted.items()},
        "absent": {name: [reason, encoder.encode(layer)] for name, (reason, layer) in checked.absent.items()},
        "before": checked.before,
        "declared": json.dumps(encoder.encode(checked.declared)),
    }
    return {"bodies": list(bodies), "files": encoder.files, **content}


def _decode(content: Mapping[str, Any]) -> Checked | None:
    from engine.dsl import operators
    from engine.dsl.checked import Checked

    if operators.schemas(content["foreign"]) != content["foreign"]:
        return None  # a package was imported, or is not there any more
    decoder = encoding.Decoder(content["files"])
    bodies = content["bodies"]
    return Checked(
        rules=tuple(decoder.rule(rule, bodies) for rule in content["rules"]),
        inactive=tuple((decoder.rule(rule, bodies), reason) for rule, reason in content["inactive"]),
        layers=encoding.CachedItems(content["layers"], decoder),
        macros=encoding.CachedItems(content["macros"], decoder),
        externs=encoding.CachedItems(content["externs"], decoder),
        overridden=tuple((winner, loser) for winner, loser in content["overridden"]),
        foreign=content["foreign"],
        patterns=encoding.CachedItems(content["patterns"], decoder),
        emitted={name: decoder.decode(ops) for name, ops in content["emitted"].items()},
        absent={name: (reason, decoder.decode(layer)) for name, (reason, layer) in content["absent"].items()},
        before=tuple(map(tuple, content["before"])),
        declared=encoding.CachedTuple(content["declared"], decoder),
    )


# ------------------------------------------------------------------------------------------ rules on top of others

_ITEMS = ("macros", "externs", "patterns")


def _encode_on(checked: Checked, name: str, base: Checked) -> dict[str, Any]:
    """What there is besides the built-in rules, and the order of both."""
    encoder = encoding.Encoder(None, checked.macros)
    bodies: dict[str, int] = {}
    places = {(rule.kind, rule.id): number for number, rule in enumerate(base.rules)}
    order: list[int] = []
    own: list[Rule] = []
    for rule in checked.rules:
        if rule.level == BUILT_IN:
            order.append(places[rule.kind, rule.id])
        else:
            own.append(rule)
            order.append(-len(own))
    inactive = [[encoder.rule(rule, bodies), reason] for rule, reason in checked.inactive if rule.level > BUILT_IN]
    items = {}
    for part in _ITEMS:
        every, given = getattr(checked, part), getattr(base, part)
        items[part] = encoder.items({name: every[name] for name in every if name not in given})
    content = {
        "base": name,
        "rules": [encoder.rule(rule, bodies) for rule in own],
        "order": order,
        "inactive": inactive,
        **items,
        "overridden": checked.overridden,
        "foreign": dict(checked.foreign),
    }
    return {"bodies": list(bodies), "files": encoder.files, **content}


def _decode_on(content: Mapping[str, Any]) -> Checked | None:
    from engine.dsl import operators
    from engine.dsl.checked import Checked, Joined

    name = str(content["base"])
    base = load(name, whole=True) if name.isalnum() else None
    if base is None or operators.schemas(content["foreign"]) != content["foreign"]:
        return None
    decoder = encoding.Decoder(content["files"])
    bodies = content["bodies"]
    own = [decoder.rule(rule, bodies) for rule in content["rules"]]
    order = content["order"]
    if sorted(order) != list(range(-len(own), len(base.rules))):
        raise ValueError("it orders other rules than there are")
    macros, externs, patterns = (
        Joined(getattr(base, part), encoding.CachedItems(content[part], decoder)) for part in _ITEMS
    )
    return Checked(
        rules=tuple(base.rules[n].ranked(rank) if n >= 0 else own[-n - 1] for rank, n in enumerate(order)),
        inactive=(*base.inactive, *((decoder.rule(rule, bodies), reason) for rule, reason in content["inactive"])),
        layers=base.layers,
        macros=macros,
        externs=externs,
        overridden=tuple((winner, loser) for winner, loser in content["overridden"]),
        foreign=content["foreign"],
        patterns=patterns,
    )
