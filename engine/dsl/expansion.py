"""Expansion of ``{}``, ``?`` and ``(a | b)``: a pattern as the plain patterns it stands for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.dsl.forms import beyond_limits, ops_in, orders, stand_in, tensor_slots, within, without_spans
from engine.dsl.memo import Recent
from engine.dsl.rule import ArgumentPattern, ListMatch, OneOf, OpMatch, Rule
from engine.errors import RuleError


@dataclass(frozen=True, slots=True)
class Expansion:
    """One plain form of a rule's pattern.

    Attributes:
        number: position among the rule's expansions; ops present before absent, written order before swapped,
            alternatives in the order written.
        roots: patterns without optional or unordered ops and without alternatives.
        chosen: names of the alternatives that it is made of.
    """

    rule: Rule
    number: int
    roots: tuple[OpMatch, ...]
    chosen: frozenset[str] = frozenset()


# A plain pattern, and the names of the alternatives in it.
_Form = tuple[ArgumentPattern, frozenset[str]]
_NONE: frozenset[str] = frozenset()


def expand(rule: Rule) -> tuple[Expansion, ...]:
    """All plain forms of a rule's pattern, in the order in which they are tried.

    Raises:
        RuleError: more than 4 unordered ops whose order matters, more than 16 forms because of ``?``, or more than
            256 in all.
    """
    return _recent((rule,))


def _expand(rules: Sequence[Rule]) -> tuple[Expansion, ...]:
    (rule,) = rules
    diagnostics = beyond_limits(rule.id, rule.roots)
    if diagnostics:
        raise RuleError(diagnostics)
    seen: dict[tuple[ArgumentPattern, ...], tuple[tuple[OpMatch, ...], frozenset[str]]] = {}
    for roots, chosen in _together(rule.roots):
        if all(isinstance(root, OpMatch) for root in roots):
            seen.setdefault(tuple(map(without_spans, roots)), (roots, chosen))  # type: ignore[arg-type]
    return tuple(Expansion(rule, number, roots, chosen) for number, (roots, chosen) in enumerate(seen.values()))


_recent = Recent(_expand)  # the forms of one rule are asked for many times where its test lines are run


def depth(pattern: ArgumentPattern) -> int:
    """The number of ops on the longest path into a pattern."""
    return isinstance(pattern, OpMatch) + max(map(depth, within(pattern)), default=0)


def _together(patterns: Sequence[ArgumentPattern]) -> list[tuple[tuple[ArgumentPattern, ...], frozenset[str]]]:
    """The plain forms of several patterns, each with each."""
    return [
        (tuple(form for form, _ in forms), _NONE.union(*(chosen for _, chosen in forms)))
        for forms in itertools.product(*map(_forms, patterns))
    ]


def _forms(pattern: ArgumentPattern) -> list[_Form]:
    if isinstance(pattern, OneOf):
        return [
            (form, chosen if name is None else chosen | {name})
            for name, item in zip(pattern.names, pattern.patterns, strict=True)
            for form, chosen in _forms(item)
        ]
    if isinstance(pattern, ListMatch):
        count = len(pattern.before)
        return [
            (replace(pattern, before=items[:count], after=items[count:]), chosen)
            for items, chosen in _together((*pattern.before, *pattern.after))
        ]
    if not isinstance(pattern, OpMatch):
        return [(pattern, _NONE)]
    forms: list[_Form] = []
    for arguments in orders(pattern):
        positions = [position for position, _ in arguments]
        for items, chosen in _together([argument for _, argument in arguments]):
            plain = tuple(zip(positions, items, strict=True))
            forms.append((replace(pattern, arguments=plain, optional=False, unordered=False), chosen))
    if pattern.optional:
        forms += _forms(stand_in(pattern))
    return forms


__all__ = ["Expansion", "depth", "expand", "ops_in", "tensor_slots", "without_spans"]
