"""``RuleSet``: the rules, layers, macros and host functions that a compilation uses."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from engine.dsl import host, tree
from engine.dsl.checks import needs
from engine.dsl.recorded.standing_in import Records, records
from engine.dsl.rule import Layer, Rule
from engine.dsl.source import BUILT_IN, USER, Source, builtin_sources, package_sources, read_sources
from engine.errors import Diagnostic, SettingsError, TensorRTNotFound
from engine.process.collector import collector_held_back
from engine.tensorrt import Capabilities, capabilities

if TYPE_CHECKING:
    from engine.dsl.checked import Checked


@dataclass(frozen=True, eq=False)
class RuleSet:
    """Checked rules in precedence order; frozen, and equal to another one if the hashes are equal.

    Attributes:
        rules: active rules, in precedence order.
        inactive: rules that the installed TensorRT, or the packages loaded, cannot serve, with the reason.
        layers: declared layers that the installed TensorRT has, by name (``trt.slice``).
        macros: by name.
        externs: declared host functions by name (``host.f``).
        patterns: named patterns by name; rules hold them written out.
        hosts: the Python functions of ``externs``.
        overridden: pairs of a user rule's id and the id of the built-in rule that it comes before.
        optional: ids of rules that are used only where that was measured to be faster (``needs setting.tune``).
        hash: of all texts and of what decides which rules are active.
        sources: paths of the files, in the order they were read.
        origins: where the file of a path comes from: ``built in``, or name and version of a package; users' files are
            not in it.
    """

    rules: tuple[Rule, ...]
    inactive: tuple[tuple[Rule, str], ...]
    layers: Mapping[str, Layer]
    macros: Mapping[str, tree.Macro]
    externs: Mapping[str, tree.Extern]
    patterns: Mapping[str, tree.PatternItem]
    hosts: Mapping[str, Callable[..., Any]]
    overridden: tuple[tuple[str, str], ...]
    hash: str
    sources: tuple[str, ...]
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)
    optional: frozenset[str] = frozenset()
    _by_kind: dict[tuple[str, ...], tuple[Rule, ...]] = field(default_factory=dict, repr=False)
    _by_setting: dict[Any, RuleSet] = field(default_factory=dict, repr=False)

    def phase(self, *kinds: str) -> tuple[Rule, ...]:
        """The active rules of some kinds, in precedence order."""
        if kinds not in self._by_kind:
            self._by_kind[kinds] = tuple(rule for rule in self.rules if rule.kind in kinds)
        return self._by_kind[kinds]

    @classmethod
    def load(
        cls,
        *paths: str | Path,
        builtin: bool = True,
        capabilities: Capabilities | None = None,
    ) -> RuleSet:
        """Load rules files; a directory stands for all ``.rules`` files under it.

        Files that are built in stay built in, and those of a package the package's, so that a tool can be pointed at
        one of them.

        Args:
            builtin: with the built-in rules and those of installed packages (see :func:`package_sources`); the files'
                own rules win over them.
            capabilities: of the TensorRT to convert for; None: the installed one, and if there is none, no rule
                is inactive for its sake.

        Raises:
            RuleError: with every mistake in every file; it is a FileNotFoundError too where a path does not exist.
        """
        sources = _given() if builtin else []
        own = read_sources(paths, level=USER)
        if own:
            known = {os.path.realpath(source.path) for source in sources}
            own = [source for source in own if os.path.realpath(source.path) not in known]
        return cls._of([*sources, *own], capabilities)

    @classmethod
    def from_text(
        cls,
        text: str,
        name: str = "my",
        *,
        builtin: bool = False,
        capabilities: Capabilities | None = None,
    ) -> RuleSet:
        """Rules from a string; ids begin with ``name``.

        Raises:
            RuleError: with every mistake.
        """
        source = Source(f"{name}.rules", name, USER if builtin else BUILT_IN, text)
        return cls._of([*(_given() if builtin else ()), source], capabilities)

    @classmethod
    def of_texts(cls, texts: Mapping[str, str]) -> RuleSet:
        """As :meth:`load`, with the texts of files that are being edited, by path; nothing of them is kept on disk.

        Raises:
            RuleError: with every mistake.
        """
        target, hosts, given = _installed(), host.registered(), builtin_sources()
        own = [Source(path, Path(path).stem, USER, text) for path, text in texts.items()]
        sources = _apart([*given, *package_sources(), *own])
        key = _key(given, target, hosts, _hash(given, target))
        if key not in _bases:
            _bases.clear()
            _bases[key] = _cached(given, target, hosts, key)
        return cls._made(_check(sources, target, hosts, _bases[key]), sources, _hash(sources, target), hosts)

    @classmethod
    def _of(cls, sources: Sequence[Source], wanted: Capabilities | None) -> RuleSet:
        from engine.dsl import operators

        target = wanted or _installed()
        sources = _apart(sources)
        hosts = host.registered()
        digest = _hash(sources, target)
        key = _key(sources, target, hosts, digest)
        # The same objects again, so that what is compiled from them (tries) serves the next model too.
        known, foreign = _recent.pop((key, frozenset(hosts.items())), (None, {}))
        if known is not None and operators.schemas(foreign) == foreign:
            _recent[key, frozenset(hosts.items())] = known, foreign
            return known
        with collector_held_back():
            checked = _cached(sources, target, hosts, key)
        made = cls._made(checked, sources, digest, hosts)
        if records() is not None:
            return made  # what stands in for PyTorch goes again
        _recent[key, frozenset(hosts.items())] = made, dict(checked.foreign)
        while len(_recent) > _MOST_RECENT:
            del _recent[next(iter(_recent))]
        return made

    @classmethod
    def _made(
        cls, checked: Checked, sources: Sequence[Source], digest: str, hosts: Mapping[str, Callable[..., Any]]
    ) -> RuleSet:
        return cls(
            rules=checked.rules,
            inactive=checked.inactive,
            layers=MappingProxyType(checked.layers),
            macros=MappingProxyType(checked.macros),
            externs=MappingProxyType(checked.externs),
            patterns=MappingProxyType(checked.patterns),
            hosts=MappingProxyType(
                {name: host.held_to(extern, hosts[name]) for name, extern in checked.externs.items()}
            ),
            overridden=checked.overridden,
            hash=_digest(digest, json.dumps(dict(checked.foreign), sort_keys=True)),
            sources=tuple(source.path for source in sources),
            origins=MappingProxyType({source.path: source.origin for source in sources if source.origin}),
        )

    def without(self, *names: str) -> RuleSet:
        """These rules but for some, so that what a rule is worth can be measured.

        Args:
            names: ids such as ``rotary.rotary_of_halves``, which mean all members of a family; ``*`` stands for
                anything.  They stay visible among the ``inactive`` rules.

        Raises:
            SettingsError: a name is of no active rule.
        """
        known = [rule.id.partition("[")[0] for rule in self.rules]
        gone: set[str] = set()
        for name in names:
            found = [rule.id for rule, base in zip(self.rules, known, strict=True) if fnmatchcase(base, name)]
            if not found:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else "`engine rules list` shows them"
                raise SettingsError(f"no active rule is called {name}; {hint}")
            gone.update(found)
        left_out = tuple((rule, "left out") for rule in self.rules if rule.id in gone)
        digest = hashlib.blake2b("\n".join([self.hash, *sorted(gone)]).encode(), digest_size=20).hexdigest()
        return replace(
            self,
            rules=tuple(rule for rule in self.rules if rule.id not in gone),
            inactive=self.inactive + left_out,
            overridden=tuple(pair for pair in self.overridden if pair[0] not in gone),
            hash=digest,
            _by_kind={},
            _by_setting={},
        )

    def with_settings(self, settings: Any) -> RuleSet:
        """These rules but for those that need a setting, or GPUs, which ``settings`` do not have.

        Args:
            settings: an :class:`engine.CompilationSettings`.
        """
        on = frozenset(name for name in needs.SETTINGS if getattr(settings, name) not in (False, None))
        also = needs.MORE_EXACT if "tune" in on else frozenset()
        built_for = settings.compute_capabilities
        key = (on, built_for)
        if key not in self._by_setting:
            missing: dict[str, str] = {}
            optional: set[str] = set()
            for rule in self.rules:
                for term in rule.needs:
                    name, lacking = needs.setting(term), needs.missing_target(term, built_for)
                    if (name == "tune" and name in on) or name in also - on:
                        optional.add(rule.id)
                    elif name is not None and name not in on:
                        missing[rule.id] = f"needs {name}=True"
                    elif (against := needs.setting_against(term)) in on:
                        missing[rule.id] = f"needs {against}=False"
                    elif lacking is not None:
                        missing[rule.id] = lacking
            # The same objects again, so that what is compiled from them serves the next model too.
            reduced = self._reduced(missing) if missing else self
            self._by_setting[key] = replace(reduced, optional=frozenset(optional)) if optional else reduced
        return self._by_setting[key]

    def _reduced(self, missing: Mapping[str, str]) -> RuleSet:
        left_out = tuple((rule, missing[rule.id]) for rule in self.rules if rule.id in missing)
        return replace(
            self,
            rules=tuple(rule for rule in self.rules if rule.id not in missing),
            inactive=self.inactive + left_out,
            overridden=tuple(pair for pair in self.overridden if pair[0] not in missing),
            hash=_digest(self.hash, *sorted(missing)),
            _by_kind={},
            _by_setting={},
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RuleSet) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        return f"<RuleSet {self.hash[:12]}: {len(self.rules)} rules, {len(self.inactive)} inactive>"


# Rule sets of this process with the ops of other packages that they name, the latest last.
_recent: dict[tuple[str, frozenset[tuple[str, Callable[..., Any]]]], tuple[RuleSet, dict[str, str | None]]] = {}
_MOST_RECENT = 8
# The built-in rules as they were checked last, for files that are checked at every key.
_bases: dict[str, Checked] = {}


def _installed() -> Capabilities | None:
    try:
        return capabilities()
    except TensorRTNotFound:
        return None


def _given() -> list[Source]:
    """What is there without any file of a user."""
    return [*builtin_sources(), *package_sources()]


def _apart(sources: Sequence[Source]) -> list[Source]:
    """Sources in which the ids of rules differ from those of built-in rules and of packages before: a file that is
    called like one of theirs gets another stem.
    """
    taken: dict[str, str] = {}
    found = []
    for source in sources:
        owner = _owner(source)
        if source.level > BUILT_IN and taken.get(source.stem, owner) != owner:
            prefix = source.origin.partition(" ")[0].replace("-", "_").replace(".", "_") or "user"
            source = replace(source, stem=f"{prefix}_{source.stem}")
        taken.setdefault(source.stem, owner)
        found.append(source)
    return found


def _owner(source: Source) -> str:
    """Whose names those of a file are: users' files share theirs, and so do the files of a package."""
    return "" if source.level == USER else source.origin or "built in"


def _hash(sources: Sequence[Source], target: Capabilities | None) -> str:
    texts = sorted((source.level, source.stem, source.text) for source in sources)
    parts = [part for level, stem, text in texts for part in (str(level), stem, text)]
    if target is not None:
        parts.append(repr((target.version, target.rtx, sorted(target.features))))
    return _digest(*parts)


def _digest(*parts: str) -> str:
    digest = hashlib.blake2b(digest_size=20)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def _key(
    sources: Sequence[Source], target: Capabilities | None, hosts: Mapping[str, Callable[..., Any]], digest: str
) -> str:
    from engine.dsl import cache, operators

    # Rules for ops of other packages are checked against those ops, where they are there.
    imported = operators.imported(source.text for source in sources)
    # A function that no text names decides nothing: the built-in rules need not be read again where a user has some.
    named = {
        name: function
        for name, function in hosts.items()
        if any(name.removeprefix("host.") in source.text for source in sources)
    }
    return cache.key(_digest(digest, json.dumps(imported)), sources, target, named)


def _cached(
    sources: Sequence[Source], target: Capabilities | None, hosts: Mapping[str, Callable[..., Any]], key: str
) -> Checked:
    """The outcome of checking, from the cache or made; a user's files are checked against the built-in rules."""
    from engine.dsl import cache

    checked = cache.load(key)
    if checked is None:
        built_in = [source for source in sources if source.level == BUILT_IN]
        base = None
        if built_in and len(built_in) < len(sources):
            name = _key(built_in, target, hosts, _hash(built_in, target))
            base = name, _cached(built_in, target, hosts, name)
        checked = _check(sources, target, hosts, None if base is None else base[1])
        cache.store(key, checked, base)
    return checked


def _check(
    sources: Sequence[Source],
    target: Capabilities | None,
    hosts: Mapping[str, Callable[..., Any]],
    base: Checked | None,
) -> Checked:
    # What checks is loaded only where something is checked.
    from engine.dsl.checks.checker import check
    from engine.dsl.syntax.own_names import apart

    groups: dict[tuple[int, str], list[tree.File]] = {}
    errors: list[Diagnostic] = []
    for source in sources:
        group = groups.setdefault((source.level, _owner(source)), [])
        if base is not None and source.level == BUILT_IN:
            group.append(tree.File(source.stem, source.path, source.text, (), (), (), (), ()))
            continue
        # A text without a file has no origin: there may be any number of those.
        parsed = _parsed_once if source.level == BUILT_IN and source.origin else _parsed
        file, found = parsed(source.text, source.path, source.stem, records())
        group.append(file)
        errors += found
    files: list[tuple[tree.File, int]] = []
    taken: tuple[list[str], list[str]] = ([], []) if base is None else ([*base.macros], [*base.patterns])
    for level, owner in groups:
        own = groups[level, owner]
        if level > BUILT_IN:
            macros = [*taken[0], *(macro.name for file, _ in files for macro in file.macros)]
            patterns = [*taken[1], *(pattern.name for file, _ in files for pattern in file.patterns)]
            own = apart(own, macros, patterns)
        files += [(file, level) for file in own]
    return check(files, target, hosts, errors, base)


def _parsed(text: str, path: str, stem: str, recorded: Records | None) -> tuple[tree.File, tuple[Diagnostic, ...]]:
    """A file as the parser reads it; its dtypes are PyTorch's, or what stands in for them in the records."""
    # The parser and lark are loaded only where rules are parsed.
    from engine.dsl.syntax import parser

    file, found = parser.parse_with_errors(text, path, stem)
    return file, tuple(found)


# Most of the time of a check is parsing, and the built-in files are checked again for another TensorRT, and when a
# package is imported whose ops they name.
_parsed_once = functools.lru_cache(maxsize=256)(_parsed)
