"""Statistics of a rule set: how many rules of each kind, how long, how tested, and how much Python they need."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.dsl import tree

if TYPE_CHECKING:
    from engine.dsl.rule import Rule
    from engine.dsl.ruleset import RuleSet


@dataclass(slots=True)
class FamilyStatistics:
    """What the rules of one op family, a file name in ``rules``, count.

    Attributes:
        members: rules with every member of a family counted.
        lines: lines of rules, their test lines included.
        tests: ``test`` and ``reject`` lines.
        host: rules that call a host function, through macros or not.
    """

    name: str
    simplify: int = 0
    lower: int = 0
    convert: int = 0
    members: int = 0
    lines: int = 0
    tests: int = 0
    host: int = 0

    @property
    def rules(self) -> int:
        """Rules of all kinds."""
        return self.simplify + self.lower + self.convert


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the rules of a set count.

    Attributes:
        ops: ops that rules are rooted at; ``host_ops`` are those of them that a rule with a host function takes.
        host_lines: lines of the Python functions that rules declare with ``extern``.
        package_lines: lines of all Python of this package, which has none per op.
        inactive: rules that the installed TensorRT cannot serve, with the reason.
    """

    families: tuple[FamilyStatistics, ...]
    total: FamilyStatistics
    ops: int
    host_ops: tuple[str, ...]
    host_lines: int
    package_lines: int
    inactive: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, rules: RuleSet) -> Statistics:
        """Count; inactive rules are rules too."""
        families: dict[str, FamilyStatistics] = defaultdict(lambda: FamilyStatistics(""))
        total = FamilyStatistics("all")
        every = [*rules.rules, *(rule for rule, _ in rules.inactive)]
        asking = {(rule.kind, _base(rule)): _asks_host(rule, rules.macros) for rule in every}
        seen = set()
        for rule in every:
            name = Path(rule.span.file).stem
            families[name].name = name
            for counts in (families[name], total):
                counts.members += 1
                if (rule.kind, _base(rule)) not in seen:
                    setattr(counts, rule.kind, getattr(counts, rule.kind) + 1)
                    counts.lines += rule.span.end_line - rule.span.line + 1
                    counts.tests += len(rule.tests)
                    counts.host += asking[rule.kind, _base(rule)]
            seen.add((rule.kind, _base(rule)))
        host_ops = {root.op for rule in every if asking[rule.kind, _base(rule)] for root in rule.roots}
        return cls(
            families=tuple(families[name] for name in sorted(families)),
            total=total,
            ops=len({root.op for rule in every for root in rule.roots}),
            host_ops=tuple(sorted(host_ops)),
            host_lines=sum(map(_lines_of, rules.hosts.values())),
            package_lines=sum(map(_lines_in, _package())),
            inactive=tuple(sorted((rule.id, reason) for rule, reason in rules.inactive)),
        )


def _base(rule: Rule) -> str:
    return rule.id.partition("[")[0]


def _asks_host(rule: Rule, macros: Mapping[str, tree.Macro]) -> bool:
    waiting: list[Any] = [*rule.steps, rule.emit]
    seen: set[str] = set()
    while waiting:
        for node in tree.walk(waiting.pop()):
            if isinstance(node, tree.Qualified) and node.name.startswith("host."):
                return True
            if isinstance(node, tree.Name) and node.name in macros and node.name not in seen:
                seen.add(node.name)
                waiting.append(macros[node.name].body)
    return False


def _lines_of(function: Callable[..., Any]) -> int:
    try:
        return len(inspect.getsource(function).splitlines())
    except (OSError, TypeError):  # no source: built in, or typed at a prompt
        return 0


def _package() -> Iterator[Path]:
    yield from Path(__file__).parent.parent.rglob("*.py")


def _lines_in(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


__all__ = ["FamilyStatistics", "Statistics"]
