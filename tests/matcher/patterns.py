"""Rules written as Python values."""

from __future__ import annotations

from typing import Any

import torch

from engine.dsl import tree
from engine.dsl.rule import Anything, ArgumentPattern, Bind, Equals, ListMatch, OpMatch, Rule
from engine.errors import Span
from engine.evaluator.op_calls import resolve

SPAN = Span("test.rules", 1, 1, 1, 2)
ANY = Anything(SPAN)


def ty(*names: str, dims: str | None = None, modifier: str | None = None, optional: bool = False) -> tree.Type:
    """A type; ``dims`` as in a rule: ``"B, 3, _, .."``."""
    parsed = None if dims is None else tuple(_dim(text.strip()) for text in dims.split(",") if text.strip())
    return tree.Type(SPAN, names, parsed, modifier, optional)


def _dim(text: str) -> tree.Dim:
    if text == "..":
        return tree.Dim(SPAN, rest=True)
    if text == "_":
        return tree.Dim(SPAN)
    name, _, span = text.partition("=")
    if span:
        low, _, high = span.partition("..")
        return tree.Dim(SPAN, name=name, range=(int(low), int(high)))
    return tree.Dim(SPAN, size=int(text)) if text.isdigit() else tree.Dim(SPAN, name=text)


def bind(name: str, type_: tree.Type | None = None) -> Bind:
    return Bind(name, type_, SPAN)


def near(value: float) -> Equals:
    return Equals(value, True, SPAN)


def items(*before: Any, rest: str | bool = False, after: tuple[Any, ...] = ()) -> ListMatch:
    name = rest if isinstance(rest, str) else None
    return ListMatch(tuple(map(pattern, before)), bool(rest), name, tuple(map(pattern, after)), SPAN)


def pattern(item: Any) -> ArgumentPattern:
    """A name binds, ``"_"`` is anything, lists are list patterns, other Python values are literals."""
    if isinstance(item, str) and item != "_" and not item.startswith('"'):
        return bind(item)
    if isinstance(item, str):
        return ANY if item == "_" else Equals(item.strip('"'), False, SPAN)
    if isinstance(item, list):
        return items(*item)
    if item is None or isinstance(item, int | float | torch.dtype):
        return Equals(item, False, SPAN)
    return item


def op(name: str, *arguments: Any, **options: Any) -> OpMatch:
    """An op pattern; arguments not given have their schema defaults unless ``partial``."""
    settings = {
        "rest": None,
        "output": 0,
        "outputs": None,
        "shared": False,
        "optional": False,
        "unordered": False,
    }
    partial = options.pop("partial", False)
    settings.update({key: options.pop(key) for key in list(options) if key in settings})
    found = resolve(name)[1]
    placed = {position: pattern(argument) for position, argument in enumerate(arguments)}
    for position, argument in enumerate(found._schema.arguments):
        if argument.name in options:
            placed[position] = pattern(options[argument.name])
        elif position not in placed and not partial and settings["rest"] is None and argument.has_default_value():
            placed[position] = Equals(argument.default_value, False, SPAN)
    return OpMatch(op=name, arguments=tuple(sorted(placed.items(), key=lambda p: p[0])), span=SPAN, **settings)


def rule(name: str, *roots: OpMatch, rank: int = 0, steps: tuple[Any, ...] = ()) -> Rule:
    return Rule(
        id=f"test.{name}",
        kind="simplify",
        level=0,
        doc="",
        roots=roots,
        steps=steps,
        emit=tree.Name(SPAN, "x"),
        needs=(),
        over=(),
        decreases=None,
        relax=(),
        tests=(),
        family={},
        span=SPAN,
        rank=rank,
    )
