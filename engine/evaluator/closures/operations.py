"""Operators: arithmetic on numbers and sizes, lists laid end to end, membership, ``and``, ``or``, ``not``."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import sympy

from engine import sizes as symints
from engine.dsl import tree
from engine.dsl.checks.needs import RELATIONS
from engine.evaluator.bounds import modest, numbers
from engine.evaluator.builtins import describe
from engine.evaluator.closures.code import Code, Compile, Names
from engine.evaluator.closures.comparisons import comparison, contains, settle
from engine.evaluator.failures import Failed, located

if TYPE_CHECKING:
    from engine.evaluator.context import Context

_PLAIN: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "/": operator.truediv,
}
_OF_SIZES: dict[str, Callable[[Any, Any], Any]] = {
    "+": symints.add,
    "-": symints.sub,
    "*": symints.mul,
    "//": symints.floordiv,
    "%": symints.mod,
}


def unary(expr: tree.Unary, compile: Compile) -> Code:
    """``-x`` or ``not x``."""
    operand, span = compile(expr.value), expr.span
    apply = _negative if expr.operator == "-" else _not

    def code(names: Names, context: Context) -> Any:
        try:
            return apply(operand(names, context), context)
        except Exception as error:
            raise located(error, span)

    return code


def _negative(value: Any, context: Context) -> Any:
    return symints.normal(-value) if symints.is_symint(value) else -value


def _not(value: Any, context: Context) -> Any:
    if isinstance(value, sympy.Basic):
        settled = context.sizes.decide(value)
        return sympy.Not(value) if settled is None else not settled
    return not value


def binary(expr: tree.Binary, compile: Compile) -> Code:
    """``left operator right``."""
    if expr.operator in ("and", "or"):
        return _connective(expr, compile)
    left, right, span = compile(expr.left), compile(expr.right), expr.span
    apply = _function(expr.operator)

    def code(names: Names, context: Context) -> Any:
        try:
            return apply(left(names, context), right(names, context), context)
        except Exception as error:
            raise located(error, span)

    return code


def _function(symbol: str) -> Callable[[Any, Any, Context], Any]:
    if symbol == "++":
        return lambda left, right, context: modest([*left, *right])
    if symbol == "in":
        return lambda left, right, context: contains(right, left, context)
    if symbol == "not in":
        return lambda left, right, context: not contains(right, left, context)
    return comparison(symbol) if symbol in RELATIONS else _arithmetic(symbol)


def _arithmetic(symbol: str) -> Callable[[Any, Any, Context], Any]:
    plain, of_sizes = _PLAIN[symbol], _OF_SIZES.get(symbol)

    def computed(left: Any, right: Any, context: Context) -> Any:
        try:
            if type(left) is int and type(right) is int:  # most are
                return modest(plain(left, right))
            if of_sizes is not None and symints.is_symint(left) and symints.is_symint(right):
                return modest(of_sizes(left, right))
            if not symints.is_known((left, right)):
                raise Failed(
                    f"{describe(left)} {symbol} {describe(right)} is known only when the engine runs, and only whole "
                    "numbers are computed then"
                )
            return modest(plain(*numbers(left, right)))
        except ZeroDivisionError:
            raise Failed("division by zero") from None
        except OverflowError as error:
            raise Failed(str(error)) from None
        except TypeError:
            raise Failed(f"{describe(left)} {symbol} {describe(right)} has no meaning") from None

    return computed


def _connective(expr: tree.Binary, compile: Compile) -> Code:
    """``and`` and ``or``; the right side is evaluated only where the left one does not decide."""
    first, second, span = compile(expr.left), compile(expr.right), expr.span
    neutral = expr.operator == "and"

    def code(names: Names, context: Context) -> Any:
        try:
            left = settle(first(names, context), context)
            if not isinstance(left, sympy.Basic):
                return second(names, context) if bool(left) is neutral else left
            right = settle(second(names, context), context)
            if not isinstance(right, sympy.Basic):
                return left if bool(right) is neutral else right
            return sympy.And(left, right) if neutral else sympy.Or(left, right)
        except Exception as error:
            raise located(error, span)

    return code


__all__ = ["binary", "unary"]
