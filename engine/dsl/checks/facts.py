"""What the text of a rule says of it by itself, without a graph: the ops that it emits, and how far it looks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from engine.dsl import operators, tree
from engine.dsl.rule import Facts, OpName, Rule


def facts_of(rule: Rule, macros: Mapping[str, tree.Macro]) -> Facts:
    """What is known of a rule: from the cache, where it comes from there, else from its text."""
    if rule.facts is not None:
        return rule.facts
    emits = emitted_ops(rule, macros) if rule.kind == "lower" else ()
    return Facts(looks(rule), emits, rule.decreases is not None)


def emitted_ops(rule: Rule, macros: Mapping[str, tree.Macro]) -> tuple[str, ...]:
    """Full names of the ops that the text of a rule emits, one per call written; macros are followed.

    Branches of an ``if`` both count, and a call inside a comprehension counts once.
    """
    found: list[str] = []
    for step in rule.steps:
        found.extend(_ops(step.value, rule, macros))
    found.extend(_ops(rule.emit, rule, macros))
    return tuple(found)


def looks(rule: Rule) -> int:
    """How many edges the guards of a rule look beyond what its pattern captured."""
    return max(_depth(rule.emit), max((_depth(step.value) for step in rule.steps), default=0))


def _ops(item: Any, rule: Rule, macros: Mapping[str, tree.Macro]) -> Iterator[str]:
    if isinstance(item, tree.Call):
        function = item.function
        name = None
        if isinstance(function, tree.Name) and function.name in macros:
            yield from _ops(macros[function.name].body, rule, macros)
        elif isinstance(function, tree.Upper) and isinstance(rule.family.get(function.name), OpName):
            name = str(rule.family[function.name])
        elif isinstance(function, tree.Qualified):
            name = function.name
        if name is not None and not name.startswith(("trt.", "host.", "cap.")):
            operator = operators.find(name)
            if operator is not None:
                yield operator.name
        yield from _ops(item.arguments, rule, macros)
    elif isinstance(item, list | tuple):
        for part in item:
            yield from _ops(part, rule, macros)
    elif dataclasses.is_dataclass(item) and not isinstance(item, type):
        for part in dataclasses.fields(item):
            if part.name != "span":
                yield from _ops(getattr(item, part.name), rule, macros)


def _depth(item: Any) -> int:
    """How far ``x is op(...)`` looks beyond what the pattern captured."""
    if isinstance(item, tree.Is):
        return max(_depth(item.value), _written_depth(item.pattern))
    if isinstance(item, list | tuple):
        return max(map(_depth, item), default=0)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        parts = (getattr(item, part.name) for part in dataclasses.fields(item) if part.name != "span")
        return max(map(_depth, parts), default=0)
    return 0


def _written_depth(pattern: Any) -> int:
    if isinstance(pattern, tree.OpPattern):
        return 1 + max(map(_written_depth, pattern.arguments), default=0)
    if isinstance(pattern, tree.ListPattern):
        return max(map(_written_depth, pattern.items), default=0)
    if isinstance(pattern, tree.Keyword):
        return _written_depth(pattern.value)
    return 0


__all__ = ["emitted_ops", "facts_of", "looks"]
