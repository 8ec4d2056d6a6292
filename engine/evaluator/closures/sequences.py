"""Lists and tuples: written out, comprehensions, and their items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sympy

from engine import sizes as symints
from engine.dsl import tree
from engine.evaluator.bounds import modest
from engine.evaluator.builtins import describe
from engine.evaluator.closures.code import Code, Compile, Names, steps_of
from engine.evaluator.closures.comparisons import settle
from engine.evaluator.closures.scopes import bind
from engine.evaluator.failures import Failed, located
from engine.evaluator.plan import AbstractTensor

if TYPE_CHECKING:
    from engine.evaluator.context import Context


def list_of(expr: tree.ListOf, compile: Compile) -> Code:
    """``[a, ..b, c]``."""
    span = expr.span
    if not any(isinstance(item, tree.Splat) for item in expr.items):
        items = tuple(compile(item) for item in expr.items)  # type: ignore[arg-type]
        return lambda names, context: [item(names, context) for item in items]
    parts = [
        (True, compile(item.value)) if isinstance(item, tree.Splat) else (False, compile(item)) for item in expr.items
    ]

    def code(names: Names, context: Context) -> list[Any]:
        try:
            found: list[Any] = []
            for several, part in parts:
                if several:
                    found.extend(part(names, context))
                else:
                    found.append(part(names, context))
            return modest(found)
        except Exception as error:
            raise located(error, span)

    return code


def tuple_of(expr: tree.TupleOf, compile: Compile) -> Code:
    """``(a, b)``."""
    items = tuple(map(compile, expr.items))
    return lambda names, context: tuple([item(names, context) for item in items])


def index(expr: tree.Index, compile: Compile) -> Code:
    """``value[index]``."""
    value, place, span = compile(expr.value), compile(expr.index), expr.span

    def code(names: Names, context: Context) -> Any:
        try:
            sequence, index = value(names, context), place(names, context)
            if not symints.is_known(index) or not isinstance(sequence, list | tuple | str):
                raise Failed(f"cannot index {describe(sequence)} with {describe(index)}")
            if not -len(sequence) <= index < len(sequence):
                raise Failed(f"index {index} of a list of {len(sequence)}")
            return sequence[index]
        except Exception as error:
            raise located(error, span)

    return code


def slice_of(expr: tree.Slice, compile: Compile) -> Code:
    """``value[start:stop]``."""
    value, span = compile(expr.value), expr.span
    ends = [None if end is None else compile(end) for end in (expr.start, expr.stop)]

    def code(names: Names, context: Context) -> Any:
        try:
            bounds = [None if end is None else end(names, context) for end in ends]
            if not all(bound is None or isinstance(bound, int) for bound in bounds):
                raise Failed(f"slice bounds {describe(bounds)} are not known when compiling")
            return value(names, context)[slice(*bounds)]
        except Exception as error:
            raise located(error, span)

    return code


def field(expr: tree.Field, compile: Compile) -> Code:
    """``value.1``."""
    whole, number, span = compile(expr.value), expr.index, expr.span

    def code(names: Names, context: Context) -> Any:
        value = whole(names, context)
        if isinstance(value, AbstractTensor) and number == 0:
            return value
        if not isinstance(value, list | tuple) or number >= len(value):
            raise Failed(f"{describe(value)} has no output {number}", span)
        return value[number]

    return code


def comprehension(expr: tree.Comprehension, compile: Compile) -> Code:
    """``[value for target in source if test]``; its names are its own."""
    source, value, span, target = compile(expr.source), compile(expr.value), expr.span, expr.target
    test = None if expr.test is None else compile(expr.test)
    steps = steps_of(expr)

    def code(names: Names, context: Context) -> list[Any]:
        try:
            scope = dict(names)
            items = []
            for element in source(names, context):
                context.spend(steps)
                if not bind(target, element, scope):
                    raise Failed(f"{describe(element)} cannot be bound to the comprehension's names")
                if test is None or _certain(test(scope, context), context):
                    items.append(value(scope, context))
            return items
        except Exception as error:
            raise located(error, span)

    return code


def _certain(value: Any, context: Context) -> Any:
    truth = settle(value, context)
    if isinstance(truth, sympy.Basic):
        raise Failed(f"undecided when compiling: {truth}")
    return truth


__all__ = ["comprehension", "field", "index", "list_of", "slice_of", "tuple_of"]
