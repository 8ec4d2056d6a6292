"""Which of the plain patterns that a pattern with alternatives stands for a test line describes.

A line describes the first that binds every name that the line gives a value, and none that it does not.  Where that
leaves a choice the line says it: ``divided = true`` for ``(.. | .. as divided)``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from engine.dsl import operators, tree
from engine.dsl.expansion import Expansion, expand
from engine.dsl.forms import flags_in, own_names, parts
from engine.dsl.rule import ArgumentPattern, Bind, ListMatch, OneOf, OpMatch, Rule


def described(rule: Rule, test: tree.Test) -> int | None:
    """The number of the plain pattern that a line describes, None if it says which alternative and that is none."""
    found = _first(rule, test, expand(rule))
    return 0 if found is None and not _has_alternatives(rule) else found


def fitting(rule: Rule, test: tree.Test) -> list[int]:
    """The plain patterns that bind what a line gives: those in which it can be filled in, whatever it says of flags.

    Without alternatives these are all.
    """
    expansions = expand(rule)
    if not _has_alternatives(rule):
        return list(range(len(expansions)))
    return [expansion.number for expansion in expansions if _binds(expansion, _said(rule, test))]


def fitted(rule: Rule, test: tree.Test, form: int) -> tree.Test:
    """The line that describes one of those plain patterns, with the values of a given line."""
    if not _has_alternatives(rule):
        return test
    expansions, flags = expand(rule), _flags(rule)
    kept = tuple(binding for binding in test.bindings if binding.name not in flags)
    chosen = expansions[form].chosen
    for named in ([name for name in flags if name in chosen], flags):
        said = (tree.Binding(test.span, name, tree.Literal(test.span, name in chosen)) for name in named)
        line = dataclasses.replace(test, bindings=(*kept, *said))
        if _first(rule, line, expansions) == form:
            break
    return line


def _first(rule: Rule, test: tree.Test, expansions: Sequence[Expansion]) -> int | None:
    wanted = {
        binding.name: isinstance(binding.value, tree.Literal) and binding.value.value is True
        for binding in test.bindings
        if binding.name in _flags(rule)
    }
    for expansion in expansions:
        agrees = all((name in expansion.chosen) == value for name, value in wanted.items())
        if agrees and _binds(expansion, _said(rule, test)):
            return expansion.number
    return None


def _said(rule: Rule, test: tree.Test) -> Mapping[str, bool]:
    """The names of a line, each with whether it gives a value; those that choose an alternative are left out."""
    flags = _flags(rule)
    return {binding.name: not _is_none(binding.value) for binding in test.bindings if binding.name not in flags}


def _binds(expansion: Expansion, said: Mapping[str, bool]) -> bool:
    given = {name for name, value in said.items() if value}
    return given <= _captured(expansion) and _needed(expansion) <= said.keys()


def _has_alternatives(rule: Rule) -> bool:
    return any(isinstance(part, OneOf) for root in rule.roots for part in parts(root))


def _flags(rule: Rule) -> list[str]:
    return list(dict.fromkeys(name for root in rule.roots for name in flags_in(root)))


def _is_none(value: object) -> bool:
    return isinstance(value, tree.Literal) and value.value is None


def _captured(expansion: Expansion) -> set[str]:
    return {name for root in expansion.roots for part in parts(root) for name in own_names(part)}


def _needed(expansion: Expansion) -> set[str]:
    return {name for root in expansion.roots for name in _without_default(root)}


def _without_default(pattern: ArgumentPattern, has_default: bool = False) -> Iterator[str]:
    """Names of arguments that an op cannot do without."""
    if isinstance(pattern, Bind) and not has_default:
        yield pattern.name
    elif isinstance(pattern, ListMatch):
        for item in (*pattern.before, *pattern.after):
            yield from _without_default(item, has_default)
    elif isinstance(pattern, OpMatch):
        operator = operators.find(pattern.op)
        for position, argument in pattern.arguments:
            given = operator is None or operator.arguments[position].default is not ...
            yield from _without_default(argument, given)


__all__ = ["described", "fitted", "fitting"]
