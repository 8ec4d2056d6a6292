"""What a rule tests before it applies, as data: facts by path, and guards as opaque text.

Two rules are compared by these: whether one node can satisfy both, and whether one tests everything that the
other tests.  Unordered operands and optional ops give several ways to match; each is one set of constraints.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.dsl import tree
from engine.dsl.forms import flags_in, orders
from engine.dsl.rule import Anything, ArgumentPattern, Bind, Equals, ListMatch, OneOf, OpMatch, Rule
from engine.dsl.vocabulary import dtype_classes, dtypes, expand_dtypes

Path = tuple[object, ...]
Facts = dict[tuple[Path, str], Any]

# Patterns with more ways than this are compared by the first ones.
_WAYS = 64
_ABSENT = object()
# Kinds of facts that say that a path holds a tensor.
_TENSOR = frozenset({"op", "tensor", "dtype", "rank", "const"})


@dataclass(frozen=True, slots=True)
class Constraints:
    """One way to match a rule."""

    facts: Mapping[tuple[Path, str], Any]
    guards: frozenset[str]
    negated: frozenset[str]  # what contradicts one of the guards

    def excludes(self, other: Constraints) -> bool:
        """Whether no node satisfies both."""
        if self.negated & other.guards:
            return True
        for (path, kind), mine in self.facts.items():
            theirs = other.facts.get((path, kind), _ABSENT)
            if theirs is not _ABSENT and not _compatible(kind, mine, theirs):
                return True
        return _contradict(self.facts, other.facts) or _contradict(other.facts, self.facts)

    def implies(self, other: Constraints) -> bool:
        """Whether everything that ``other`` tests is tested here, as strictly or more so."""
        return other.guards <= self.guards and all(
            _implied(self.facts, path, kind, theirs) for (path, kind), theirs in other.facts.items()
        )


def ways_of(rule: Rule) -> list[Constraints]:
    """Every way to match a rule."""
    ways: list[_Way] = [_Way({}, {})]
    for index, root in enumerate(rule.roots):
        ways = _product(ways, _op_ways(root, (index,), root=True))
    return [_finished(rule, way) for way in ways]


# ------------------------------------------------------------------------------------------ patterns


@dataclass(frozen=True, slots=True)
class _Way:
    facts: Facts
    names: dict[str, tuple[Path, ...]]  # where each name is bound
    chosen: frozenset[str] = frozenset()  # names of the alternatives taken

    def __or__(self, other: _Way) -> _Way:
        names = dict(self.names)
        for name, paths in other.names.items():
            names[name] = (*names.get(name, ()), *paths)
        return _Way(self.facts | other.facts, names, self.chosen | other.chosen)


def _product(ways: Sequence[_Way], more: Sequence[_Way]) -> list[_Way]:
    return [way | addition for way in ways for addition in more][:_WAYS]


def _op_ways(op: OpMatch, path: Path, *, root: bool = False) -> list[_Way]:
    facts: Facts = {(path, "op"): op.op}
    if not root:
        facts[path, "output"] = op.output
        if not op.shared:
            facts[path, "exclusive"] = True
    names: dict[str, tuple[Path, ...]] = {
        name: ((*path, "output", i),) for i, name in enumerate(op.outputs or ()) if name is not None
    }
    ways: list[_Way] = []
    for order in _orders(op):
        partial = [_Way(facts, names)]
        for position, argument in order:
            partial = _product(partial, _ways(argument, (*path, position)))
        ways += partial
    if op.optional:
        operand = next((argument for _, argument in op.arguments if not isinstance(argument, Equals)), None)
        ways += [_Way({}, {})] if operand is None else _ways(operand, path)
    return ways


def _orders(op: OpMatch) -> Iterator[Sequence[tuple[int, ArgumentPattern]]]:
    yield op.arguments
    by_position = dict(op.arguments)
    if op.unordered and 0 in by_position and 1 in by_position and len(orders(op)) > 1:
        yield sorted((by_position | {0: by_position[1], 1: by_position[0]}).items(), key=lambda item: item[0])


def _ways(pattern: ArgumentPattern, path: Path) -> list[_Way]:
    match pattern:
        case OpMatch():
            return _op_ways(pattern, path)
        case Equals():
            return [_Way({(path, "near" if pattern.approximate else "value"): pattern.value}, {})]
        case Bind():
            facts, names = _type_facts(pattern.type, path)
            return [_Way(facts, {pattern.name: (path,)} | names)]
        case ListMatch():
            fixed = len(pattern.before) + len(pattern.after)
            ways = [_Way({(path, "length"): (fixed, not pattern.has_rest)}, {})]
            for index, item in enumerate(pattern.before):
                ways = _product(ways, _ways(item, (*path, index)))
            for index, item in enumerate(pattern.after):
                ways = _product(ways, _ways(item, (*path, index - len(pattern.after))))
            return ways
        case OneOf():
            return [
                way if name is None else replace(way, chosen=way.chosen | {name})
                for name, item in zip(pattern.names, pattern.patterns, strict=True)
                for way in _ways(item, path)
            ]
        case Anything():
            return [_Way({}, {})]


def _type_facts(kind: tree.Type | None, path: Path) -> tuple[Facts, dict[str, tuple[Path, ...]]]:
    facts: Facts = {}
    names: dict[str, tuple[Path, ...]] = {}
    if kind is None:
        return facts, names
    tensor = kind.dims is not None or all(
        name in dtype_classes() or (name in dtypes() and name != "bool") for name in kind.names
    )
    if kind.optional:
        # None also fits, so the tests of a tensor hold only where there is one.
        facts[path, "optional"] = (kind.names, kind.dims is None or len(kind.dims))
    elif kind.element is not None:
        facts[path, "length"] = (0, False)
    elif tensor:
        facts[path, "tensor"] = True
        if "tensor" not in kind.names:
            facts[path, "dtype"] = expand_dtypes(kind.names)
        if kind.modifier == "const":
            facts[path, "const"] = True
    else:
        facts[path, "sort"] = frozenset(kind.names)
    fixed = sum(not dim.rest for dim in kind.dims or ())
    rest = next((axis for axis, dim in enumerate(kind.dims or ()) if dim.rest), None)
    if kind.dims is not None and not kind.optional:
        facts[path, "rank"] = (fixed, rest is None)
    for axis, dim in enumerate(kind.dims or ()):
        position = axis if rest is None or axis < rest else axis - len(kind.dims or ())
        place = (*path, "dim", position)
        if dim.name is not None:
            names[dim.name] = (*names.get(dim.name, ()), place)
        if dim.size is not None and not kind.optional:
            facts[place, "value"] = dim.size
        if dim.range is not None and not kind.optional:
            facts[place, "range"] = dim.range
    return facts, names


# ------------------------------------------------------------------------------------------ guards


def _finished(rule: Rule, way: _Way) -> Constraints:
    """Add equal names and guards to what the patterns say."""
    facts = dict(way.facts)
    for paths in way.names.values():
        for index, second in enumerate(paths):
            for first in paths[:index]:
                facts[first, f"same as {second}"] = True
    renamed: dict[str, str] = {name: f"<{paths[0]}>" for name, paths in way.names.items()}
    renamed |= {name: repr(value) for name, value in rule.family.items()}
    flags = {name for root in rule.roots for name in flags_in(root)}
    renamed |= {name: str(name in way.chosen) for name in flags}
    guards: set[str] = set()
    negated: set[str] = set()
    for need in rule.needs:
        guards.add(f"needs {_text(need, renamed)}")
        negated.add(f"needs {_negation(need, renamed)}")
    for number, step in enumerate(rule.steps):
        if isinstance(step, tree.Let):
            if step.target.name is not None:
                renamed[step.target.name] = _shortened(f"({_text(step.value, renamed)})")
            continue
        if step.target is not None:
            guards.add(f"{_text(step.target, {})} := {_text(step.value, renamed)}")
            renamed |= {name: f"<bound {number} {name}>" for name in _bound(step.target)}
            continue
        for atom in conjuncts(step.value):
            fact = _fact(atom, way.names)
            if fact is None:
                guards.add(_text(atom, renamed))
                negated.add(_negation(atom, renamed))
            elif fact[0] in facts and not _compatible(fact[0][1], facts[fact[0]], fact[1]):
                guards.add(_text(atom, renamed))  # a rule that contradicts itself; left to the linter
            else:
                facts[fact[0]] = fact[1]
    return Constraints(facts, frozenset(guards), frozenset(negated))


def _shortened(text: str) -> str:
    """A text that stands for another one: names that are read several times would multiply it."""
    return text if len(text) < 200 else hashlib.blake2b(text.encode("utf-8", "surrogatepass")).hexdigest()


def conjuncts(expr: tree.Expr) -> Iterator[tree.Expr]:
    """The conditions that have to hold for one that joins them by `and`."""
    if isinstance(expr, tree.Binary) and expr.operator == "and":
        yield from conjuncts(expr.left)
        yield from conjuncts(expr.right)
    else:
        yield expr


def _fact(atom: tree.Expr, names: Mapping[str, tuple[Path, ...]]) -> tuple[tuple[Path, str], object] | None:
    """A guard that tests one captured name for a literal, as the fact that a pattern would state."""

    def path(expr: tree.Expr) -> Path | None:
        return names[expr.name][0] if isinstance(expr, tree.Name | tree.Upper) and expr.name in names else None

    match atom:
        case tree.Is(pattern=tree.Literal(value=value)) if (place := path(atom.value)) is not None:
            return ((place, "not"), value) if atom.negated else ((place, "value"), value)
        case tree.Binary(operator="==" | "!=", right=tree.Literal(value=value)) if (
            place := path(atom.left)
        ) is not None:
            return ((place, "value" if atom.operator == "==" else "not"), value)
        case tree.Binary(operator="==" | "!=", right=tree.ListOf(items=())) if (place := path(atom.left)) is not None:
            return ((place, "value" if atom.operator == "==" else "not"), ())
        case tree.Unary(operator="not") if (place := path(atom.value)) is not None:
            return (place, "value"), False
        case tree.Name() if (place := path(atom)) is not None:
            return (place, "value"), True
    return None


def _bound(target: tree.Target) -> Iterator[str]:
    if target.name is not None:
        yield target.name
    for item in target.items or ():
        yield from _bound(item)


_OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">", "in": "not in", "not in": "in"}


def _negation(expr: tree.Expr, renamed: Mapping[str, str]) -> str:
    """The text of what contradicts a guard."""
    match expr:
        case tree.Unary(operator="not"):
            return _text(expr.value, renamed)
        case tree.Binary() if expr.operator in _OPPOSITE:
            return _text(replace(expr, operator=_OPPOSITE[expr.operator]), renamed)
        case tree.Is():
            return _text(replace(expr, negated=not expr.negated), renamed)
    return _text(tree.Unary(expr.span, "not", expr), renamed)


def _text(node: object, renamed: Mapping[str, str]) -> str:
    """A syntax node as text without positions, names replaced by what they stand for."""
    match node:
        case tree.Name() | tree.Upper():
            return renamed.get(node.name, node.name)
        case tree.Node():
            parts = (_text(getattr(node, name), renamed) for name in node.__dataclass_fields__ if name != "span")
            return f"{type(node).__name__}({', '.join(parts)})"
        case tuple():
            return f"({', '.join(_text(item, renamed) for item in node)})"
    return repr(node)


# ------------------------------------------------------------------------------------------ comparison


def _same(a: object, b: object) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    return type(a) is type(b) and a == b


def _compatible(kind: str, a: Any, b: Any) -> bool:
    match kind:
        case "dtype":
            return bool(a & b)
        case "length" | "rank":
            (low, exact), (other_low, other_exact) = a, b
            if exact and other_exact:
                return bool(low == other_low)
            return bool(low >= other_low) if exact else bool(other_low >= low) if other_exact else True
        case "range":
            return max(a[0], b[0]) <= min(a[1], b[1])
        case "near":
            return abs(a - b) <= 1e-6 * max(abs(a), abs(b))
        case "not" | "sort" | "optional":
            return True
    return _same(a, b)


def _contradict(facts: Mapping[tuple[Path, str], Any], other: Mapping[tuple[Path, str], Any]) -> bool:
    """Whether facts of different kinds about one path exclude each other."""
    for (path, kind), mine in facts.items():
        if kind == "value":
            if any((path, tensor) in other for tensor in _TENSOR):
                return True
            if _same(other.get((path, "not"), _ABSENT), mine):
                return True
            if mine is not None and (path, "sort") in other and not _of_sort(mine, other[path, "sort"]):
                return True
            length = other.get((path, "length"))
            if length is not None and not (isinstance(mine, tuple) and _fits_length(len(mine), length)):
                return True
            near = other.get((path, "near"))
            if near is not None and not (isinstance(mine, int | float) and _compatible("near", near, mine)):
                return True
            if mine is None and ((path, "sort") in other or (path, "range") in other):
                return True
        elif kind == "length" and (
            any((path, tensor) in other for tensor in _TENSOR) or (mine == (0, True) and other.get((path, "not")) == ())
        ):
            return True
    return False


def _fits_length(count: int, length: tuple[int, bool]) -> bool:
    low, exact = length
    return bool(count == low if exact else count >= low)


def _of_sort(value: object, sort: frozenset[str]) -> bool:
    names = {bool: {"bool", "scalar"}, int: {"int", "float", "scalar"}, float: {"float", "scalar"}, str: {"str"}}
    return bool(names.get(type(value), {"dtype"}) & sort)


def _implied(facts: Mapping[tuple[Path, str], Any], path: Path, kind: str, theirs: Any) -> bool:
    mine = facts.get((path, kind), _ABSENT)
    if mine is _ABSENT:
        value = facts.get((path, "value"), _ABSENT)
        match kind:
            case "tensor":
                return any((path, other) in facts for other in _TENSOR)
            case "not":
                if value is not _ABSENT:
                    return not _same(value, theirs)
                return theirs is None and any((path, other) in facts for other in (*_TENSOR, "length", "near", "sort"))
            case "sort":
                return value is not _ABSENT and _of_sort(value, theirs)
            case "length":
                return isinstance(value, tuple) and _fits_length(len(value), theirs)
            case "near":
                return isinstance(value, int | float) and _compatible("near", value, theirs)
            case "range":
                return type(value) is int and theirs[0] <= value <= theirs[1]
            case "optional":
                return value is None or any((path, other) in facts for other in _TENSOR)
        return False
    match kind:
        case "dtype" | "sort":
            return bool(mine <= theirs)
        case "length" | "rank":
            (low, exact), (other_low, other_exact) = mine, theirs
            return bool(low == other_low and exact) if other_exact else bool(low >= other_low)
        case "range":
            return theirs[0] <= mine[0] and mine[1] <= theirs[1]
        case "optional":
            return mine == theirs
    return _compatible(kind, mine, theirs) if kind != "not" else _same(mine, theirs)


__all__ = ["Constraints", "conjuncts", "ways_of"]
