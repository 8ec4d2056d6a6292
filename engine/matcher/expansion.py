"""Expansion of ``{}`` and ``?``: a pattern as the plain patterns it stands for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch._ops import OpOverload

from engine.dsl import tree
from engine.dsl.rule import Anything, ArgumentPattern, Bind, Equals, ListMatch, OpMatch, Rule
from engine.errors import Diagnostic, RuleError, Span

MAX_UNORDERED = 4
MAX_OPTIONAL_EXPANSIONS = 16

_NOWHERE = Span("", 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Expansion:
    """One plain form of a rule's pattern.

    Attributes:
        number: position among the rule's expansions; ops present before absent, written order before swapped.
        roots: patterns without optional or unordered ops.
    """

    rule: Rule
    number: int
    roots: tuple[OpMatch, ...]


def expand(rule: Rule) -> tuple[Expansion, ...]:
    """All plain forms of a rule's pattern, in the order in which they are tried.

    Raises:
        RuleError: more than 4 unordered ops whose order matters, or more than 16 forms because of ``?``.
    """
    _check_limits(rule)
    per_root = [[root for root in _forms(root) if isinstance(root, OpMatch)] for root in rule.roots]
    seen: dict[tuple[ArgumentPattern, ...], tuple[OpMatch, ...]] = {}
    for roots in itertools.product(*per_root):
        seen.setdefault(tuple(map(without_spans, roots)), roots)
    return tuple(Expansion(rule, number, roots) for number, roots in enumerate(seen.values()))


def _check_limits(rule: Rule) -> None:
    ops = [op for root in rule.roots for op in ops_in(root)]
    unordered = [op for op in ops if op.unordered and len(orders(op)) > 1]
    diagnostics = []
    if len(unordered) > MAX_UNORDERED:
        diagnostics.append(
            Diagnostic(
                f"rule {rule.id} has {len(unordered)} unordered ops, at most {MAX_UNORDERED} are allowed",
                unordered[MAX_UNORDERED].span,
                hint="write ( ) for ops whose operands the model always gives in one order",
            )
        )
    optional = [op for op in ops if op.optional]
    if 2 ** len(optional) > MAX_OPTIONAL_EXPANSIONS:
        diagnostics.append(
            Diagnostic(
                f"rule {rule.id} stands for {2 ** len(optional)} patterns because of '?', "
                f"at most {MAX_OPTIONAL_EXPANSIONS} are allowed",
                optional[-1].span,
                hint="split the rule in two",
            )
        )
    if diagnostics:
        raise RuleError(diagnostics)


def ops_in(pattern: ArgumentPattern) -> Iterator[OpMatch]:
    """The op patterns in a pattern, outer ones first."""
    if isinstance(pattern, OpMatch):
        yield pattern
        for _, argument in pattern.arguments:
            yield from ops_in(argument)
    elif isinstance(pattern, ListMatch):
        for item in (*pattern.before, *pattern.after):
            yield from ops_in(item)


def depth(pattern: ArgumentPattern) -> int:
    """The number of ops on the longest path into a pattern."""
    if isinstance(pattern, OpMatch):
        return 1 + max((depth(argument) for _, argument in pattern.arguments), default=0)
    if isinstance(pattern, ListMatch):
        return max(map(depth, (*pattern.before, *pattern.after)), default=0)
    return 0


def _forms(pattern: ArgumentPattern) -> list[ArgumentPattern]:
    if isinstance(pattern, ListMatch):
        before = [_forms(item) for item in pattern.before]
        after = [_forms(item) for item in pattern.after]
        return [
            replace(pattern, before=items[: len(before)], after=items[len(before) :])
            for items in itertools.product(*before, *after)
        ]
    if not isinstance(pattern, OpMatch):
        return [pattern]
    forms: list[ArgumentPattern] = []
    for arguments in orders(pattern):
        positions = [position for position, _ in arguments]
        for chosen in itertools.product(*(_forms(argument) for _, argument in arguments)):
            plain = tuple(zip(positions, chosen, strict=True))
            forms.append(replace(pattern, arguments=plain, optional=False, unordered=False))
    if pattern.optional:
        forms += _forms(_stand_in(pattern))
    return forms


def orders(pattern: OpMatch) -> list[tuple[tuple[int, ArgumentPattern], ...]]:
    """The arguments in each order that can match; a number never sits in a slot that takes only tensors."""
    if not pattern.unordered:
        return [pattern.arguments]
    first, second = (*tensor_slots(pattern.op), 0, 1)[:2] if len(tensor_slots(pattern.op)) >= 2 else (0, 1)
    arguments = dict(pattern.arguments)
    a = arguments.get(first, Anything(pattern.span))
    b = arguments.get(second, Anything(pattern.span))
    orders = []
    for left, right in ((a, b), (b, a)):
        if not (isinstance(left, Equals) and isinstance(left.value, int | float)):
            placed = {**arguments, first: left, second: right}
            orders.append(tuple(sorted(placed.items(), key=lambda item: item[0])))
    if without_spans(a) == without_spans(b):
        orders = orders[:1]
    return orders or [pattern.arguments]


def _stand_in(pattern: OpMatch) -> ArgumentPattern:
    """What an absent optional op leaves: the pattern of its first tensor argument."""
    arguments = dict(pattern.arguments)
    for position in (*tensor_slots(pattern.op), *sorted(arguments)):
        if position in arguments:
            return arguments[position]
    return Anything(pattern.span)


def overload(name: str) -> OpOverload | None:
    """The overload with a full name such as ``aten.add.Tensor``, None if PyTorch does not know it."""
    namespace, _, rest = name.partition(".")
    packet, _, kind = rest.partition(".")
    try:
        found = getattr(getattr(getattr(torch.ops, namespace), packet), kind or "default")
    except (AttributeError, RuntimeError):
        return None
    return found if isinstance(found, OpOverload) else None


@cache
def tensor_slots(name: str) -> tuple[int, ...]:
    """Schema positions of an op's tensor arguments (not lists of tensors); empty for an unknown op."""
    found = overload(name)
    if found is None:
        return ()
    return tuple(
        position
        for position, argument in enumerate(found._schema.arguments)
        if str(argument.type) in ("Tensor", "Optional[Tensor]")
    )


def without_spans(pattern: ArgumentPattern) -> ArgumentPattern:
    """A pattern that compares equal wherever it is written."""
    if isinstance(pattern, OpMatch):
        arguments = tuple((position, without_spans(argument)) for position, argument in pattern.arguments)
        return replace(pattern, arguments=arguments, span=_NOWHERE)
    if isinstance(pattern, ListMatch):
        before, after = (tuple(map(without_spans, items)) for items in (pattern.before, pattern.after))
        return replace(pattern, before=before, after=after, span=_NOWHERE)
    if isinstance(pattern, Bind) and pattern.type is not None:
        return replace(pattern, type=_type_without_spans(pattern.type), span=_NOWHERE)
    return replace(pattern, span=_NOWHERE)


def _type_without_spans(type_: tree.Type) -> tree.Type:
    dims = None if type_.dims is None else tuple(replace(dim, span=_NOWHERE) for dim in type_.dims)
    element = None if type_.element is None else _type_without_spans(type_.element)
    items = None if type_.items is None else tuple(map(_type_without_spans, type_.items))
    return replace(type_, span=_NOWHERE, dims=dims, element=element, items=items)
