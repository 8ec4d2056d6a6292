"""Programs: a plain pattern compiled to conditions on paths."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from engine.dsl import tree
from engine.dsl.expansion import Expansion
from engine.dsl.forms import flags_in, own_names, parts, tensor_slots, within, without_spans
from engine.dsl.rule import ArgumentPattern, Bind, Equals, ListMatch, OpMatch
from engine.errors import Diagnostic, RuleError, Span
from engine.matcher import conditions as c
from engine.matcher.paths import Kind, PathTable


@dataclass(frozen=True, slots=True)
class Check:
    """A condition and the place in the rule that asks for it."""

    condition: c.Condition
    span: Span


@dataclass(frozen=True, slots=True)
class Climb:
    """A way from a captured value up to a root: users by op, level by level, starting at ``start``."""

    start: int
    levels: tuple[tuple[str, int], ...]  # op and the output that the next level uses


@dataclass(frozen=True, slots=True)
class Search:
    """How a further root is found and what it must satisfy."""

    root: int
    op: str
    output: int
    climbs: tuple[Climb, ...]
    checks: tuple[Check, ...]


@dataclass(slots=True, eq=False)
class Program:
    """A plain pattern, seen from one of its roots.

    Attributes:
        checks: conditions on the anchor root, cheap ones first.
        searches: the other roots, in the order in which they are found.
        final: conditions on the whole match.
        bindings: captured name -> paths; the first that leads somewhere is the value.
        absent: names that only other plain forms bind; they are None.
        flags: name of an alternative -> whether this form is made of it.
        ops: path, exclusive per op pattern, roots included.
        roots: paths of the roots in the order written.
    """

    expansion: Expansion
    anchor: int
    checks: tuple[Check, ...] = ()
    searches: tuple[Search, ...] = ()
    final: tuple[Check, ...] = ()
    bindings: dict[str, tuple[int, ...]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    flags: dict[str, bool] = field(default_factory=dict)
    ops: tuple[tuple[int, bool], ...] = ()
    roots: tuple[int, ...] = ()

    @property
    def order(self) -> tuple[int, int, int]:
        """Sort key: precedence, then expansion, then anchor."""
        return self.expansion.rule.rank, self.expansion.number, self.anchor


def compile_program(expansion: Expansion, anchor: int, table: PathTable) -> Program:
    """Compile an expansion for matches in which ``anchor`` is the root that matching starts from.

    Raises:
        RuleError: another root shares no captured tensor with the roots found before it.
    """
    return _Compiler(expansion, anchor, table).compile()


class _Compiler:
    def __init__(self, expansion: Expansion, anchor: int, table: PathTable) -> None:
        self.expansion = expansion
        self.anchor = anchor
        self.table = table
        self.checks: list[Check] = []
        self.ops: list[tuple[int, OpMatch]] = []
        self.names: dict[str, list[tuple[int, bool, Span]]] = {}

    def compile(self) -> Program:
        patterns = self.expansion.roots
        others = [number for number in range(len(patterns)) if number != self.anchor]
        numbers = {self.anchor: 0} | {number: slot + 1 for slot, number in enumerate(others)}
        paths = tuple(self.table.root(numbers[number]) for number in range(len(patterns)))
        for number in (self.anchor, *others):
            self._op(patterns[number], paths[number])
        self._same_names()
        placed = [paths[self.anchor]]
        waiting = {paths[number]: patterns[number] for number in others}
        searches: list[Search] = []
        mine = self._checks_of(placed, ())
        while waiting:
            path, pattern, climbs = self._next(placed, waiting)
            del waiting[path]
            placed.append(path)
            checks = self._checks_of(placed, (*mine, *(check for s in searches for check in s.checks)))
            searches.append(Search(path, pattern.op, pattern.output, climbs, checks))
        bound = {name: tuple(place for place, _, _ in places) for name, places in self.names.items()}
        roots = self.expansion.rule.roots
        written = {name for root in roots for part in parts(root) for name in own_names(part)}
        flags = dict.fromkeys((name for root in roots for name in flags_in(root)), False)
        return Program(
            expansion=self.expansion,
            anchor=self.anchor,
            checks=mine,
            searches=tuple(searches),
            final=self._final(paths),
            bindings=bound,
            absent=tuple(sorted(written - bound.keys())),
            flags=flags | dict.fromkeys(self.expansion.chosen, True),
            ops=tuple((path, not op.shared or path in paths) for path, op in self.ops),
            roots=paths,
        )

    # ------------------------------------------------------------ walking the pattern

    def _add(self, condition: c.Condition, span: Span) -> None:
        self.checks.append(Check(condition, span))

    def _bind(self, name: str | None, path: int, span: Span, partial: bool = False) -> None:
        if name is not None and name != "_":
            self.names.setdefault(name, []).append((path, partial, span))

    def _op(self, pattern: OpMatch, path: int) -> None:
        self.ops.append((path, pattern))
        if pattern.outputs is not None:
            for index, name in enumerate(pattern.outputs):
                self._bind(name, self.table.path(Kind.OUTPUT, path, index), pattern.span)
        for position, argument in pattern.arguments:
            self._argument(argument, self.table.path(Kind.ARGUMENT, path, position))
        if pattern.rest is not None:
            listed = tuple(position for position, _ in pattern.arguments)
            self._bind(pattern.rest, self.table.path(Kind.OTHERS, path, listed), pattern.span)

    def _argument(self, pattern: ArgumentPattern, path: int) -> None:
        if isinstance(pattern, OpMatch):
            self._add(c.IsOp(path, pattern.op, pattern.output), pattern.span)
            self._op(pattern, path)
        elif isinstance(pattern, ListMatch):
            before, after = len(pattern.before), len(pattern.after)
            self._add(c.Length(path, before + after, not pattern.has_rest), pattern.span)
            for index, item in enumerate(pattern.before):
                self._argument(item, self.table.path(Kind.ELEMENT, path, index))
            for index, item in enumerate(pattern.after):
                # Without a rest, after is empty; with one, these count from the end.
                self._argument(item, self.table.path(Kind.ELEMENT, path, index - after))
            if pattern.has_rest:
                rest = self.table.path(Kind.SLICE, path, (before, after))
                self._bind(pattern.rest_name, rest, pattern.span)
        elif isinstance(pattern, Equals):
            self._add(c.IsLiteral(path, pattern.value, type(pattern.value), pattern.approximate), pattern.span)
        elif isinstance(pattern, Bind):
            self._bind(pattern.name, path, pattern.span)
            if pattern.type is not None:
                self._type(pattern.type, path)

    def _type(self, type_: tree.Type, path: int) -> None:
        if type_.element is not None or type_.items is not None:
            self._add(c.HasListType(path, type_), type_.span)
            return
        static = type_.modifier == "static"
        if type_.names:
            names = c.HasType(path, type_.names, type_.dims is not None, static, type_.optional)
            self._add(names, type_.span)
        if type_.modifier == "const":
            self._add(c.IsConst(path, type_.optional), type_.span)
        if type_.dims is not None:
            self._dims(type_.dims, path, type_)

    def _dims(self, dims: tuple[tree.Dim, ...], path: int, type_: tree.Type) -> None:
        rest = next((position for position, dim in enumerate(dims) if dim.rest), None)
        count = len(dims) - (rest is not None)
        self._add(c.HasRank(path, count, rest is None, type_.optional), type_.span)
        for position, dim in enumerate(dims):
            if dim.rest:
                continue
            axis = position if rest is None or position < rest else position - len(dims)
            place = self.table.path(Kind.DIM, path, axis)
            if dim.size is not None:
                self._add(c.DimWithin(place, dim.size, dim.size, type_.optional), dim.span)
            if dim.range is not None:
                self._add(c.DimWithin(place, *dim.range, type_.optional), dim.span)
            self._bind(dim.name, place, dim.span, type_.optional)

    def _same_names(self) -> None:
        for places in self.names.values():
            sure = [place for place in places if not place[1]]
            if sure:
                first = sure[0]
                for place in places:
                    if place[0] != first[0]:
                        self._add(c.AllSame(place[0], (first[0],), place[1]), place[2])
            elif len(places) > 1:
                self._add(c.AllSame(places[0][0], tuple(p for p, _, _ in places[1:]), True), places[1][2])

    # ------------------------------------------------------------ several roots

    def _roots_of(self, condition: c.Condition) -> set[int]:
        paths = [condition.path]
        if isinstance(condition, c.AllSame):
            paths += condition.others
        return {self.table.roots[path] for path in paths}

    def _checks_of(self, placed: list[int], done: tuple[Check, ...]) -> tuple[Check, ...]:
        """Conditions that can be checked once the placed roots are known, cheap ones first."""
        ready = [check for check in self.checks if check not in done and self._roots_of(check.condition) <= set(placed)]
        return tuple(sorted(ready, key=lambda check: (check.condition.cost, check.condition.path)))

    def _next(self, placed: list[int], waiting: dict[int, OpMatch]) -> tuple[int, OpMatch, tuple[Climb, ...]]:
        for path, pattern in waiting.items():
            climbs = self._climbs(placed, path)
            if climbs:
                return path, pattern, climbs
        pattern = next(iter(waiting.values()))
        message = "this root of the tuple pattern shares no captured tensor with the other roots"
        hint = "capture one operand by the same name in each root"
        raise RuleError([Diagnostic(f"rule {self.expansion.rule.id}: {message}", pattern.span, hint=hint)])

    def _climbs(self, placed: list[int], root: int) -> tuple[Climb, ...]:
        climbs = []
        for places in self.names.values():
            starts = [path for path, _, _ in places if self.table.roots[path] in placed]
            goals = [path for path, _, _ in places if self.table.roots[path] == root]
            if starts and goals and self._is_tensor(goals[0]) and self._is_tensor(starts[0]):
                climbs.append(Climb(starts[0], self._levels(goals[0], root)))
        return tuple(climbs)

    def _is_tensor(self, path: int) -> bool:
        kind, parent, index = self.table.entries[path]
        if kind is Kind.ELEMENT:
            return True  # found out when matching: a climb from a number finds nothing
        return kind is Kind.ARGUMENT and index in tensor_slots(self._op_at(parent).op)

    def _op_at(self, path: int) -> OpMatch:
        return next(pattern for place, pattern in self.ops if place == path)

    def _levels(self, path: int, root: int) -> tuple[tuple[str, int], ...]:
        levels = []
        while path != root:
            kind, parent, _ = self.table.entries[path]
            if kind is Kind.ARGUMENT:
                pattern = self._op_at(parent)
                levels.append((pattern.op, pattern.output))
            path = parent
        return tuple(levels)

    # ------------------------------------------------------------ the whole match

    def _final(self, roots: tuple[int, ...]) -> tuple[Check, ...]:
        final: list[Check] = []
        patterns = self.expansion.roots
        for path, pattern in zip(roots, patterns, strict=True):
            if pattern.output:
                final.append(Check(c.OnlyOutput(path, pattern.output), pattern.span))
        everything = tuple(path for path, _ in self.ops)
        for path, pattern in self.ops:
            if path not in roots and not pattern.shared:
                final.append(Check(c.IsExclusive(path, everything, roots), pattern.span))
        if len(roots) > 1:
            span = patterns[0].span
            final.append(Check(c.AreDistinct(roots[0], roots), span))
            for i, j in self._interchangeable():
                final.append(Check(c.IsBefore(roots[i], roots[j]), span))
            replaced = tuple(path for path, pattern in self.ops if path in roots or not pattern.shared)
            final.append(Check(c.IsConvex(roots[0], replaced), span))
        return tuple(final)

    def _interchangeable(self) -> list[tuple[int, int]]:
        """Pairs of roots that can change places without changing the pattern."""
        if any(isinstance(step, tree.Guard) for step in self.expansion.rule.steps):
            return []  # a guard may tell them apart
        patterns = [without_spans(pattern) for pattern in self.expansion.roots]
        pairs = []
        for i in range(len(patterns)):
            for j in range(i + 1, len(patterns)):
                swapped = list(patterns)
                swapped[i], swapped[j] = patterns[j], patterns[i]
                if _renamed(swapped) == _renamed(patterns):
                    pairs.append((i, j))
        return pairs


def names_in(pattern: ArgumentPattern) -> list[str]:
    """The names a plain pattern captures, inner ones first."""
    return [name for inner in within(pattern) for name in names_in(inner)] + own_names(pattern)


def _renamed(patterns: list[ArgumentPattern]) -> list[ArgumentPattern]:
    """Patterns with their names replaced by the order in which they are met."""
    numbers: dict[str, str] = {}
    for pattern in patterns:
        for name in names_in(pattern):
            numbers.setdefault(name, f"#{len(numbers)}")

    def rename(item: Any) -> Any:
        if isinstance(item, OpMatch):
            outputs = item.outputs and tuple(name and numbers[name] for name in item.outputs)
            arguments = tuple((position, rename(argument)) for position, argument in item.arguments)
            rest = item.rest and numbers[item.rest]
            return replace(item, arguments=arguments, rest=rest, outputs=outputs)
        if isinstance(item, ListMatch):
            before, after = tuple(map(rename, item.before)), tuple(map(rename, item.after))
            return replace(item, before=before, after=after, rest_name=item.rest_name and numbers[item.rest_name])
        if isinstance(item, Bind):
            type_ = item.type
            if type_ is not None and type_.dims is not None:
                dims = tuple(replace(d, name=d.name and numbers[d.name]) for d in type_.dims)
                type_ = replace(type_, dims=dims)
            return replace(item, name=numbers[item.name], type=type_)
        return item

    return [rename(pattern) for pattern in patterns]
