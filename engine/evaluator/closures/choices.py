"""``a if c else b``, and tests by ``is``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sympy

from engine import sizes as symints
from engine.dsl import tree
from engine.evaluator.closures.code import Code, Compile, Names
from engine.evaluator.closures.comparisons import compare, settle
from engine.evaluator.failures import Failed, located
from engine.evaluator.op_calls import resolve
from engine.evaluator.plan import Captured

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.evaluator.context import Context

_RELATIVE = 1e-6


def conditional(expr: tree.Conditional, compile: Compile) -> Code:
    """``then if test else otherwise``; of a test that is not settled when compiling, a choice between sizes."""
    test, then, otherwise, span = compile(expr.test), compile(expr.then), compile(expr.otherwise), expr.span

    def code(names: Names, context: Context) -> Any:
        try:
            truth = settle(test(names, context), context)
            if not isinstance(truth, sympy.Basic):
                return (then if truth else otherwise)(names, context)
            return _select(truth, then(names, context), otherwise(names, context), context)
        except Exception as error:
            raise located(error, span)

    return code


def _select(test: sympy.Basic, then: Any, otherwise: Any, context: Context) -> Any:
    if isinstance(then, list | tuple) and isinstance(otherwise, list | tuple) and len(then) == len(otherwise):
        return [_select(test, a, b, context) for a, b in zip(then, otherwise, strict=True)]
    if symints.is_symint(then) and symints.is_symint(otherwise):
        return context.sizes.select(test, then, otherwise)
    raise Failed(f"undecided when compiling: {test}")


def is_test(expr: tree.Is, compile: Compile) -> Code:
    """``value is pattern`` or ``value is not pattern``."""
    tested, span, wanted = compile(expr.value), expr.span, not expr.negated
    fits = _fitting(expr.pattern)

    def code(names: Names, context: Context) -> bool:
        try:
            return fits(tested(names, context), context) is wanted
        except Exception as error:
            raise located(error, span)

    return code


def _fitting(pattern: tree.Pattern) -> Callable[[Any, Context], bool]:
    """Whether a value is what a pattern says."""
    if isinstance(pattern, tree.OpPattern):
        op = pattern.op
        return lambda value, context: (
            isinstance(value, Captured) and context.mirror.op(value.value.node) == resolve(op)[0]
        )
    if isinstance(pattern, tree.Approximate):
        about = pattern.value
        return lambda value, context: isinstance(value, float | int) and abs(value - about) <= _RELATIVE * abs(about)
    if isinstance(pattern, tree.Literal):
        exactly = pattern.value
        if exactly is None:
            return lambda value, context: value is None
        return lambda value, context: compare("==", value, exactly, context) is True
    return _no_test


def _no_test(value: Any, context: Context) -> bool:
    raise Failed("`is` tests an op or a literal")


__all__ = ["conditional", "is_test"]
