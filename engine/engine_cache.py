"""The engine cache on disk: an engine that was built once is read back instead of being built again.

An entry is one file: a line of JSON, which says what the file holds, and the plan.  Files appear whole, are
checked before they are used, and the least recently used give way when the folder is full.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import filelock

from engine.builder.blueprint import NoBlueprint
from engine.builder.network_key import NetworkKey, digests, gpu, network_key
from engine.errors import FileError, RefitError
from engine.storage import strict_json
from engine.storage.cache_folder import ABANDONED, locked, mark_as_written, remove_old
from engine.storage.regular_file import open_regular
from engine.storage.unnamed_file import read_kept, release

if TYPE_CHECKING:
    from engine.conversion import BuiltNetwork
    from engine.report import Timings
    from engine.settings import CompilationSettings

_LOG = logging.getLogger("engine.cache")
_MAGIC = b"engine cache 1\n"
_MOST_HEADER = 1 << 16
_SUFFIX = ".engine"
_UNFINISHED = ".unfinished"
# Seconds to wait for a process that has the cache's lock; once, see `engine.storage.cache_folder.locked`.
_PATIENCE = 60.0
_ABANDONED = ABANDONED


@dataclass(frozen=True)
class Entry:
    """An engine as it is kept.

    Attributes:
        plan: the serialized engine.
        weights: digest of the weights in it that a refit can replace.
        loads: GPUs on which it was loaded with success.
    """

    plan: bytes | memoryview
    weights: str
    loads: tuple[str, ...] = ()


class Damaged(Exception):
    """A file of the cache is not what was written; the text says how."""


def default_folder() -> Path:
    """Where engines are kept unless a setting says otherwise."""
    chosen = os.environ.get("ENGINE_CACHE_DIR")
    if chosen:
        return Path(chosen) / "engines"
    import platformdirs

    return Path(platformdirs.user_cache_dir("engine")) / "engines"


class EngineCache:
    """A folder of engines, for any number of processes at once.

    Args:
        folder: made when something is kept.
        size: most bytes that the entries may take.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size

    def path(self, key: str) -> Path:
        """The file of an entry."""
        return self.folder / f"{key}{_SUFFIX}"

    def load(self, key: str) -> Entry | None:
        """An entry, None where there is none; it counts as used.

        Raises:
            Damaged: there was one that is not what was written.  It is gone now, if it was a file.
            OSError: the folder cannot be read.
        """
        path = self.path(key)
        try:
            with open_regular(path) as file:
                entry = _read(key, file)
        except FileNotFoundError:
            return None
        except FileError as error:
            raise Damaged(str(error)) from None
        except Damaged:
            path.unlink(missing_ok=True)
            raise
        with contextlib.suppress(OSError):  # evicted meanwhile, or a folder that can only be read
            os.utime(path)
        return entry

    def store(self, key: str, entry: Entry) -> bool:
        """Keep an entry, in place of one with the same key.

        Returns:
            False where the entry is larger than the whole cache may be, and is not kept.

        Raises:
            OSError: the folder cannot be written.
            filelock.Timeout: another process did not let go of it.
        """
        head = _head(key, entry)
        size = len(head) + len(entry.plan)
        if size > self.size:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = self.folder / ".lock"
        # Under the lock, because nobody may take the file for that of a killed writer before it is marked.
        with locked(lock, _PATIENCE):
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=f".{key}.", suffix=_UNFINISHED)
            file = os.fdopen(handle, "wb")
            mark_as_written(file)
        try:
            with file:
                file.write(head)
                file.write(entry.plan)
                file.flush()
                with locked(lock, _PATIENCE):
                    self._make_room(size, key, Path(name))
                    if os.name == "nt":  # where open files cannot be renamed
                        file.close()
                    os.replace(name, self.path(key))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return True

    def _make_room(self, wanted: int, key: str, own: Path) -> None:
        """Remove what is used least, and before that what killed writers left, until ``wanted`` bytes more fit in."""
        found: list[tuple[int, int, Path]] = []
        unfinished = (path for path in self.folder.glob(f".*{_UNFINISHED}") if path != own)
        for path, size, is_written in remove_old(unfinished, _ABANDONED):
            if is_written:
                wanted += size
            else:
                found.append((0, size, path))
        for path in self.folder.glob(f"*{_SUFFIX}"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if path != self.path(key):
                found.append((stat.st_mtime_ns, stat.st_size, path))
        taken = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if taken + wanted <= self.size:
                break
            path.unlink(missing_ok=True)
            taken -= size
            _LOG.info("engine cache: %s is removed to make room", path.name)


def _head(key: str, entry: Entry) -> bytes:
    """What stands before the plan: the kind of file, a digest, what the plan is."""
    (digest,) = digests([entry.plan])
    said = {"key": key, "weights": entry.weights, "loads": entry.loads, "size": len(entry.plan), "digest": digest}
    line = json.dumps(said, separators=(",", ":")).encode()
    return b"".join((_MAGIC, hashlib.sha256(line).hexdigest().encode(), b" ", line, b"\n"))


def _read(key: str, file: IO[bytes]) -> Entry:
    if file.readline(len(_MAGIC)) != _MAGIC:
        raise Damaged("it does not begin as an entry does")
    checksum, _, line = file.readline(_MOST_HEADER).removesuffix(b"\n").partition(b" ")
    if hashlib.sha256(line).hexdigest().encode() != checksum:
        raise Damaged("its header is not what was written")
    try:
        said = strict_json.parse(line)
        kept, weights, loads = str(said["key"]), said["weights"], said["loads"]
        size, expected = said["size"], said["digest"]
        if not isinstance(weights, str) or not all(isinstance(gpu, str) for gpu in loads):
            raise TypeError("weights and loads are text")
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"its header cannot be read: {type(error).__name__}: {error}") from None
    if kept != key:
        raise Damaged(f"it is the entry {kept[:80]}")
    left = os.fstat(file.fileno()).st_size - file.tell()
    if left != size:
        raise Damaged(f"it holds {left} bytes of an engine of {str(size)[:40]}")
    plan = read_kept(file, size)
    if digests([plan]) != [expected]:
        raise Damaged("the engine in it is not what was written")
    release(plan)
    return Entry(plan, weights, tuple(loads))


class CachedEngine:
    """What the cache knows of one network that is to be built.

    Attributes:
        plan: its engine, None where it has to be built.
        how: ``"hit"``, ``"miss"`` or ``""`` (nothing is cached), with what happened besides; for the report.
        loaded: whether the engine was loaded on this GPU before.
    """

    def __init__(self, settings: CompilationSettings, built: BuiltNetwork, timings: Timings) -> None:
        self.plan: bytes | memoryview | None = None
        self.how = ""
        self._settings = settings
        self._cache: EngineCache | None = None
        self._key = NetworkKey("", "")
        self._entry: Entry | None = None
        if not (settings.cache_built_engines or settings.reuse_cached_engines):
            return
        with timings.phase("cache"):
            self._find(built)

    def _find(self, built: BuiltNetwork) -> None:
        settings = self._settings
        try:
            self._key = network_key(built)
        except NoBlueprint as reason:
            self.how = f"not cached: {reason}"
            return
        folder = Path(settings.engine_cache_dir) if settings.engine_cache_dir else default_folder()
        self._cache = EngineCache(folder, settings.engine_cache_size)
        self.how = "miss"
        if settings.reuse_cached_engines:
            self._look(built)

    def _look(self, built: BuiltNetwork) -> None:
        assert self._cache is not None
        path = self._cache.path(self._key.network)
        try:
            entry = self._cache.load(self._key.network)
        except Damaged as reason:
            _LOG.warning("engine cache: %s was damaged and is built again: %s", path, reason)
            self.how = f"miss: the entry was damaged: {reason}"
            return
        except OSError as error:
            self._unusable(error)
            return
        if entry is None:
            return
        if entry.weights != self._key.weights:
            entry = self._refitted(entry, built)
        if entry is not None:
            self._entry, self.plan = entry, entry.plan
            self.how = self.how if self.how.startswith("hit") else "hit"

    def _refitted(self, entry: Entry, built: BuiltNetwork) -> Entry | None:
        """The kept engine with the weights of this network."""
        from engine.builder.refitter import refit_engine

        weights = {name: weight.tensor for name, weight in built.weights.named.items()}
        try:
            plan = refit_engine(entry.plan, weights, name=built.name)
        except RefitError as error:
            _LOG.info("engine cache: %s", error)
            self.how = "miss: the kept engine has other weights and could not be refitted"
            return None
        self.how = "hit, refitted"
        return replace(entry, plan=plan)

    @property
    def loaded(self) -> bool:
        """Whether the engine was loaded on this GPU before, so that it need not be tried."""
        return self._entry is not None and gpu() in self._entry.loads

    def keep(self, plan: bytes | memoryview, *, loaded: bool) -> None:
        """Keep an engine that was built, or that a kept one was loaded here; failing to is told and no error.

        Args:
            loaded: whether it was loaded on this GPU.
        """
        if self._cache is None or not self._settings.cache_built_engines:
            return
        here = (gpu(),) if loaded else ()
        if self._entry is None:
            entry = Entry(plan, self._key.weights, here)
        elif self.how == "hit" and not set(here) <= set(self._entry.loads):
            entry = replace(self._entry, loads=tuple(sorted({*self._entry.loads, *here})))
        else:
            return
        try:
            if not self._cache.store(self._key.network, entry):
                self.how += f"; not kept: larger than engine_cache_size={self._cache.size}"
        except (OSError, filelock.Timeout) as error:
            self._unusable(error)

    def _unusable(self, error: Exception) -> None:
        assert self._cache is not None
        folder = self._cache.folder
        self.how += f"; the cache cannot be used: {error}"
        if str(folder) not in _warned:
            _warned.append(str(folder))
            advice = "set engine_cache_dir or ENGINE_CACHE_DIR to a folder that can be written"
            if isinstance(error, filelock.Timeout):
                advice = "another process holds it: end that one, or set engine_cache_dir or ENGINE_CACHE_DIR"
            _LOG.warning("engines are not cached: %s; %s", error, advice)


_warned: list[str] = []


__all__ = ["CachedEngine", "Damaged", "EngineCache", "Entry", "default_folder"]
