"""The plain forms of a pattern: how many ``{}``, ``?`` and ``(a | b)`` make of it, and how many are allowed.

They are counted without being made, so that a pattern beyond the limits is rejected at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from engine.dsl import operators, tree
from engine.dsl.rule import Anything, ArgumentPattern, Bind, Equals, ListMatch, OneOf, OpMatch
from engine.errors import Diagnostic, Span

MAX_UNORDERED = 4
MAX_OPTIONAL_EXPANSIONS = 16
MAX_FORMS = 256

_NOWHERE = Span("", 0, 0, 0, 0)


def beyond_limits(rule: str, roots: Sequence[OpMatch]) -> list[Diagnostic]:
    """What is wrong with a pattern that stands for too many plain forms; empty if nothing is.

    Args:
        rule: id of the rule, for the messages.
    """
    found = []
    unordered = [op for root in roots for op in _at_once(root, lambda op: op.unordered and len(orders(op)) > 1)]
    if len(unordered) > MAX_UNORDERED:
        found.append(
            Diagnostic(
                f"rule {rule} has {len(unordered)} unordered ops, at most {MAX_UNORDERED} are allowed",
                unordered[MAX_UNORDERED].span,
                hint="write ( ) for ops whose operands the model always gives in one order",
            )
        )
    optional = [op for root in roots for op in _at_once(root, lambda op: op.optional)]
    if 2 ** len(optional) > MAX_OPTIONAL_EXPANSIONS:
        found.append(
            Diagnostic(
                f"rule {rule} stands for {shown(2 ** len(optional))} patterns because of '?', "
                f"at most {MAX_OPTIONAL_EXPANSIONS} are allowed",
                optional[-1].span,
                hint="split the rule in two",
            )
        )
    count = 1
    for root in roots:
        count *= _count(root)
    if count > MAX_FORMS and not found:
        found.append(
            Diagnostic(
                f"rule {rule} stands for {shown(count)} patterns because of its alternatives, "
                f"at most {MAX_FORMS} are allowed",
                next((part.span for root in roots for part in parts(root) if isinstance(part, OneOf)), roots[0].span),
                hint="alternatives, `?` and `{ }` multiply: split the rule, or write ( ) for `{ }`",
            )
        )
    return found


def shown(count: int) -> str:
    """A number for people, who do not want thousands of digits."""
    return "more than 1,000,000,000" if count >= 10**9 else str(count)


def _at_once(pattern: ArgumentPattern, counts: Callable[[OpMatch], bool]) -> list[OpMatch]:
    """The ops of some kind that one plain form can come from: of alternatives those with the most."""
    found: list[OpMatch] = []
    if isinstance(pattern, OneOf):
        return max((_at_once(item, counts) for item in pattern.patterns), key=len)
    if isinstance(pattern, OpMatch) and counts(pattern):
        found.append(pattern)
    for inner in within(pattern):
        found += _at_once(inner, counts)
    return found


def _count(pattern: ArgumentPattern) -> int:
    """How many plain forms a pattern stands for; those that come out equal are counted as often as they do."""
    if isinstance(pattern, OneOf):
        return sum(map(_count, pattern.patterns))
    counts = [_count(inner) for inner in within(pattern)]
    count = 1
    for inner in counts:
        count *= inner
    if isinstance(pattern, OpMatch):
        count *= len(orders(pattern))
        if pattern.optional:
            operand = stand_in(pattern)
            at = next((i for i, inner in enumerate(within(pattern)) if inner is operand), None)
            count += 1 if at is None else counts[at]
    return count


def within(pattern: ArgumentPattern) -> tuple[ArgumentPattern, ...]:
    """The patterns directly inside a pattern."""
    match pattern:
        case OpMatch():
            return tuple(argument for _, argument in pattern.arguments)
        case ListMatch():
            return (*pattern.before, *pattern.after)
        case OneOf():
            return pattern.patterns
    return ()


def parts(pattern: ArgumentPattern) -> Iterator[ArgumentPattern]:
    """A pattern and all those in it, outer ones first."""
    yield pattern
    for inner in within(pattern):
        yield from parts(inner)


def ops_in(pattern: ArgumentPattern) -> Iterator[OpMatch]:
    """The op patterns in a pattern, outer ones first."""
    return (part for part in parts(pattern) if isinstance(part, OpMatch))


def own_names(pattern: ArgumentPattern) -> list[str]:
    """The names that a pattern binds, without those of the patterns in it."""
    match pattern:
        case Bind():
            dims = pattern.type.dims if pattern.type is not None and pattern.type.dims is not None else ()
            return [pattern.name, *(dim.name for dim in dims if dim.name is not None)]
        case OpMatch():
            return [name for name in (*(pattern.outputs or ()), pattern.rest) if name is not None]
        case ListMatch():
            return [] if pattern.rest_name is None else [pattern.rest_name]
    return []


def names_in_some(pattern: ArgumentPattern) -> dict[str, OneOf]:
    """The names that some of several alternatives bind and others do not, each with those alternatives."""

    def visit(pattern: ArgumentPattern) -> tuple[set[str], dict[str, OneOf]]:
        sure, unsure = set(own_names(pattern)), {}
        inner = [visit(item) for item in within(pattern)]
        for _, missing in inner:
            unsure.update(missing)
        if isinstance(pattern, OneOf):
            sure = set.intersection(*(names for names, _ in inner))
            for names, _ in inner:
                unsure.update((name, pattern) for name in names - sure)
        else:
            sure.update(*(names for names, _ in inner))
        return sure, {name: where for name, where in unsure.items() if name not in sure}

    return visit(pattern)[1]


def flags_in(pattern: ArgumentPattern) -> list[str]:
    """The names of alternatives: true where that alternative fits, false elsewhere."""
    found = (name for part in parts(pattern) if isinstance(part, OneOf) for name in part.names if name is not None)
    return list(dict.fromkeys(found))


def orders(pattern: OpMatch) -> list[tuple[tuple[int, ArgumentPattern], ...]]:
    """The arguments in each order that can match; a number never sits in a slot that takes only tensors."""
    if not pattern.unordered:
        return [pattern.arguments]
    first, second = (*tensor_slots(pattern.op), 0, 1)[:2] if len(tensor_slots(pattern.op)) >= 2 else (0, 1)
    arguments = dict(pattern.arguments)
    a = arguments.get(first, Anything(pattern.span))
    b = arguments.get(second, Anything(pattern.span))
    found = []
    for left, right in ((a, b), (b, a)):
        if not (isinstance(left, Equals) and isinstance(left.value, int | float)):
            placed = {**arguments, first: left, second: right}
            found.append(tuple(sorted(placed.items(), key=lambda item: item[0])))
    if without_spans(a) == without_spans(b):
        found = found[:1]
    return found or [pattern.arguments]


def stand_in(pattern: OpMatch) -> ArgumentPattern:
    """What an absent optional op leaves: the pattern of its first tensor argument."""
    arguments = dict(pattern.arguments)
    for position in (*tensor_slots(pattern.op), *sorted(arguments)):
        if position in arguments:
            return arguments[position]
    return Anything(pattern.span)


def tensor_slots(name: str) -> tuple[int, ...]:
    """Schema positions of an op's tensor arguments (not lists of tensors); empty for an unknown op."""
    operator = operators.find(name)
    return () if operator is None else operator.tensor_slots


def without_spans(pattern: ArgumentPattern) -> ArgumentPattern:
    """A pattern that compares equal wherever it is written."""
    if isinstance(pattern, OpMatch):
        arguments = tuple((position, without_spans(argument)) for position, argument in pattern.arguments)
        return replace(pattern, arguments=arguments, span=_NOWHERE)
    if isinstance(pattern, ListMatch):
        before, after = (tuple(map(without_spans, items)) for items in (pattern.before, pattern.after))
        return replace(pattern, before=before, after=after, span=_NOWHERE)
    if isinstance(pattern, OneOf):
        return replace(pattern, patterns=tuple(map(without_spans, pattern.patterns)), span=_NOWHERE)
    if isinstance(pattern, Bind) and pattern.type is not None:
        return replace(pattern, type=_type_without_spans(pattern.type), span=_NOWHERE)
    return replace(pattern, span=_NOWHERE)


def _type_without_spans(type_: tree.Type) -> tree.Type:
    dims = None if type_.dims is None else tuple(replace(dim, span=_NOWHERE) for dim in type_.dims)
    element = None if type_.element is None else _type_without_spans(type_.element)
    items = None if type_.items is None else tuple(map(_type_without_spans, type_.items))
    return replace(type_, span=_NOWHERE, dims=dims, element=element, items=items)
