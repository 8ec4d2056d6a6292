"""Precedence: which of two rules that match the same node is tried first.

A rule of a higher level wins; then ``over`` decides; then the more specific pattern: rule A is more specific
than B when it tests everything that B tests, and more.  Two rules that can match the same node and of which
neither comes first are ambiguous, which is an error.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from engine.dsl import tree
from engine.dsl.rule import Anything, ArgumentPattern, Bind, Equals, ListMatch, OpMatch, Rule
from engine.errors import Span
from engine.evaluator.builtins import CLASSES, DTYPES

Path = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class _Constraints:
    """What one way of matching a rule tests: facts by path, and opaque guards by text."""

    facts: Mapping[tuple[Path, str], object]
    guards: frozenset[str]

    def excludes(self, other: _Constraints) -> bool:
        """Whether no node can satisfy both."""
        for (path, kind), value in self.facts.items():
            theirs = other.facts.get((path, kind), _ABSENT)
            if theirs is not _ABSENT and not _compatible(kind, value, theirs):
                return True
        return _tensor_paths(self) & _value_paths(other) != set() or _value_paths(self) & _tensor_paths(other) != set()

    def implies(self, other: _Constraints) -> bool:
        """Whether everything that ``other`` tests is tested here as well."""
        for key, value in other.facts.items():
            mine = self.facts.get(key, _ABSENT)
            if key[1] == "tensor" and ((key[0], "op") in self.facts or (key[0], "dtype") in self.facts):
                continue
            if mine is _ABSENT or not _at_least(key[1], mine, value):
                return False
        return other.guards <= self.guards


_ABSENT = object()


def _compatible(kind: str, a: object, b: object) -> bool:
    if kind == "dtype":
        return bool(set(a) & set(b))  # type: ignore[call-overload]
    if kind == "value":
        return type(a) is type(b) and a == b or (isinstance(a, int | float) and isinstance(b, int | float)
                                                 and not isinstance(a, bool) and not isinstance(b, bool) and a == b)  # fmt: skip
    if kind in ("length", "rank"):
        (low, exact), (other_low, other_exact) = a, b  # type: ignore[misc]
        if exact and other_exact:
            return bool(low == other_low)
        return bool(low >= other_low) if exact else bool(other_low >= low) if other_exact else True
    return a == b


def _at_least(kind: str, mine: object, theirs: object) -> bool:
    if kind == "dtype":
        return set(mine) <= set(theirs)  # type: ignore[call-overload]
    if kind in ("length", "rank"):
        (low, exact), (other_low, other_exact) = mine, theirs  # type: ignore[misc]
        return bool(low == other_low and exact) if other_exact else bool(low >= other_low)
    return _compatible(kind, mine, theirs)


def _tensor_paths(constraints: _Constraints) -> set[Path]:
    return {path for path, kind in constraints.facts if kind in ("op", "tensor", "dtype")}


def _value_paths(constraints: _Constraints) -> set[Path]:
    return {path for path, kind in constraints.facts if kind == "value"}


def _constraints(rule: Rule) -> list[_Constraints]:
    """One set of constraints per way of matching: unordered operands both ways, optional ops with and without."""
    guards = frozenset(
        _text(step) for step in rule.steps if isinstance(step, tree.Guard)
    ) | {f"needs {_plain(need)}" for need in rule.needs}
    ways: list[dict[tuple[Path, str], object]] = [{}]
    for index, root in enumerate(rule.roots):
        ways = [way | more for way in ways for more in _op_ways(root, (index,), root=True)]
    return [_Constraints(way, guards) for way in ways[:64]]


def _op_ways(op: OpMatch, path: Path, *, root: bool = False) -> list[dict[tuple[Path, str], object]]:
    ways: list[dict[tuple[Path, str], object]] = []
    for order in _orders(op):
        partial: list[dict[tuple[Path, str], object]] = [{(path, "op"): op.op}]
        if op.output:
            partial[0][path, "output"] = op.output
        for position, argument in order:
            partial = [way | more for way in partial for more in _ways(argument, (*path, position))]
        ways += partial
    if op.optional and not root:
        tensors = [argument for _, argument in op.arguments if isinstance(argument, OpMatch | Bind)]
        ways += _ways(tensors[0], path) if tensors else [{}]
    return ways


def _orders(op: OpMatch) -> Iterable[Sequence[tuple[int, ArgumentPattern]]]:
    yield op.arguments
    if op.unordered and len(op.arguments) >= 2:
        (first, a), (second, b), *rest = op.arguments
        yield [(first, b), (second, a), *rest]


def _ways(pattern: ArgumentPattern, path: Path) -> list[dict[tuple[Path, str], object]]:
    match pattern:
        case OpMatch():
            return _op_ways(pattern, path)
        case Equals():
            return [{(path, "value"): pattern.value}]
        case Anything():
            return [{}]
        case Bind():
            return [_type_facts(pattern.type, path)]
        case ListMatch():
            fixed = len(pattern.before) + len(pattern.after)
            ways: list[dict[tuple[Path, str], object]] = [{(path, "length"): (fixed, not pattern.has_rest)}]
            for index, item in enumerate(pattern.before):
                ways = [way | more for way in ways for more in _ways(item, (*path, index))]
            for index, item in enumerate(pattern.after):
                ways = [way | more for way in ways for more in _ways(item, (*path, index - len(pattern.after)))]
            return ways


def _type_facts(kind: tree.Type | None, path: Path) -> dict[tuple[Path, str], object]:
    facts: dict[tuple[Path, str], object] = {}
    if kind is None or kind.optional:
        return facts
    names = [name for name in kind.names if name in DTYPES or name in CLASSES]
    if names and (kind.dims is not None or kind.names[0] in CLASSES or len(kind.names) > 1):
        facts[path, "tensor"] = True
        if "tensor" not in names:
            dtypes = {dtype for name in names for dtype in (CLASSES.get(name) or (DTYPES[name],))}
            facts[path, "dtype"] = frozenset(dtypes)
    elif kind.names:
        facts[path, "sort"] = kind.names
    if kind.element is not None:
        facts[path, "list"] = True
    if kind.modifier:
        facts[path, kind.modifier] = True
    if kind.dims is not None:
        fixed = sum(not dim.rest for dim in kind.dims)
        facts[path, "rank"] = (fixed, not any(dim.rest for dim in kind.dims))
        for axis, dim in enumerate(kind.dims):
            if dim.rest:
                break
            if dim.size is not None:
                facts[(*path, "dim", axis), "value"] = dim.size
    return facts


def _text(step: tree.Guard) -> str:
    return _plain(step)


def _plain(node: object) -> str:
    """A syntax node as text without positions."""
    if isinstance(node, tree.Node):
        fields = [name for cls in type(node).__mro__ for name in getattr(cls, "__slots__", ()) if name != "span"]
        return f"{type(node).__name__}({', '.join(_plain(getattr(node, name)) for name in fields)})"
    if isinstance(node, tuple):
        return f"({', '.join(map(_plain, node))})"
    return repr(node)


def _phase(rule: Rule) -> int:
    return {"simplify": 0, "lower": 1, "convert": 2}[rule.kind]


def order(rules: Sequence[Rule], report: Callable[[str, Span, str | None, tuple[Span, str] | None], None]) -> list[Rule]:
    """Rules in precedence order with their ranks; ambiguity and cycles go to ``report``."""
    constraints = {rule.id: _constraints(rule) for rule in rules}
    by_root: dict[tuple[int, str], list[Rule]] = defaultdict(list)
    for rule in rules:
        for op in sorted({root.op for root in rule.roots}):
            by_root[_phase(rule), op].append(rule)
    families: dict[str, list[str]] = defaultdict(list)
    for rule in rules:
        families[_family(rule.id)].append(rule.id)
    before: dict[str, set[str]] = {rule.id: set() for rule in rules}  # id -> ids that must come later
    for rule in rules:
        for name in rule.over:
            for loser in families.get(name) or families.get(f"{rule.id.partition('.')[0]}.{name}") or ():
                before[rule.id].add(loser)
    told: set[frozenset[str]] = set()
    for group in by_root.values():
        for index, a in enumerate(group):
            for b in group[index + 1 :]:
                _compare(a, b, constraints, before, report, told)
    return _sorted(rules, before, report)


def _family(rule_id: str) -> str:
    return rule_id.partition("[")[0]


def _compare(
    a: Rule,
    b: Rule,
    constraints: Mapping[str, list[_Constraints]],
    before: dict[str, set[str]],
    report: Callable[[str, Span, str | None, tuple[Span, str] | None], None],
    told: set[frozenset[str]],
) -> None:
    pairs = [(x, y) for x in constraints[a.id] for y in constraints[b.id] if not x.excludes(y)]
    if not pairs:
        return
    if a.level != b.level:
        winner, loser = (a, b) if a.level > b.level else (b, a)
        before[winner.id].add(loser.id)
        return
    if b.id in before[a.id] or a.id in before[b.id]:
        return
    a_wins = any(x.implies(y) for x, y in pairs)
    b_wins = any(y.implies(x) for x, y in pairs)
    if a_wins and not b_wins:
        before[a.id].add(b.id)
    elif b_wins and not a_wins:
        before[b.id].add(a.id)
    else:
        key = frozenset((_family(a.id), _family(b.id)))
        if key in told or len(key) == 1 and a_wins and b_wins and a.family == b.family:
            return
        told.add(key)
        report(
            f"`{a.id}` and `{b.id}` can match the same node and neither is more specific",
            a.span,
            f"say which one wins: add `over {_family(b.id).partition('.')[2]}` to `{_family(a.id)}` or the reverse",
            (b.span, "the other rule"),
        )


def _sorted(
    rules: Sequence[Rule],
    before: Mapping[str, set[str]],
    report: Callable[[str, Span, str | None, tuple[Span, str] | None], None],
) -> list[Rule]:
    by_id = {rule.id: rule for rule in rules}
    waiting = dict.fromkeys(by_id, 0)
    for later in before.values():
        for rule_id in later:
            if rule_id in waiting:
                waiting[rule_id] += 1
    ready = [(_phase(by_id[rule_id]), rule_id) for rule_id, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    ordered: list[Rule] = []
    while ready:
        _, rule_id = heapq.heappop(ready)
        ordered.append(replace(by_id[rule_id], rank=len(ordered)))
        for later in sorted(before[rule_id]):
            if later in waiting:
                waiting[later] -= 1
                if waiting[later] == 0:
                    heapq.heappush(ready, (_phase(by_id[later]), later))
    if len(ordered) < len(rules):
        stuck = sorted(rule_id for rule_id, count in waiting.items() if count > 0)
        first = by_id[stuck[0]]
        report(
            f"precedence goes round in a circle among {', '.join(stuck[:6])}",
            first.span,
            "remove one of their `over` clauses",
            None,
        )
    return ordered
