"""Expressions over sizes as functions of numbers, by Python's arithmetic."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import reduce
from typing import Any, TypeAlias

import sympy
from torch.utils._sympy import functions

Sizes: TypeAlias = "Mapping[sympy.Symbol, int]"
Function: TypeAlias = "Callable[[Sizes], Any]"


COMPARISONS: dict[type, Callable[..., Any]] = {
    sympy.Eq: operator.eq,
    sympy.Ne: operator.ne,
    sympy.Lt: operator.lt,
    sympy.Le: operator.le,
    sympy.Gt: operator.gt,
    sympy.Ge: operator.ge,
}


def named(names: Mapping[str, Callable[..., Any]]) -> dict[type, Callable[..., Any]]:
    """The functions of PyTorch's sizes that this version of it has."""
    return {getattr(functions, name): function for name, function in names.items() if hasattr(functions, name)}


_FOLDED: dict[type, Callable[[Any, Any], Any]] = {
    sympy.Add: operator.add,
    sympy.Mul: operator.mul,
    sympy.Max: max,
    sympy.Min: min,
    functions.Max: max,
    functions.Min: min,
    # Not the short-circuiting ones: what cannot be computed in one operand must not depend on the order.
    sympy.And: operator.and_,
    sympy.Or: operator.or_,
}

_PLAIN: dict[type, Callable[..., Any]] = {
    **COMPARISONS,
    sympy.Not: operator.not_,
    sympy.Abs: abs,
    sympy.Mod: operator.mod,
    sympy.floor: math.floor,
    sympy.ceiling: math.ceil,
    sympy.sign: lambda a: (a > 0) - (a < 0),
    **named(
        {
            "BitwiseFn_bitwise_and": operator.and_,
            "BitwiseFn_bitwise_or": operator.or_,
            "BitwiseFn_bitwise_xor": operator.xor,
            "CeilDiv": lambda a, b: -(-a // b),
            "CeilToInt": math.ceil,
            "CleanDiv": operator.floordiv,
            "FloatPow": operator.pow,
            "FloatTrueDiv": operator.truediv,
            "FloorDiv": operator.floordiv,
            "FloorToInt": math.floor,
            "Identity": lambda a: a,
            "IntTrueDiv": operator.truediv,
            "LShift": operator.lshift,
            "Mod": operator.mod,
            "ModularIndexing": lambda a, b, c: a // b % c,
            "PowByNatural": operator.pow,
            "PythonMod": operator.mod,
            "RShift": operator.rshift,
            "RoundDecimal": lambda a, digits: round(float(a), digits),
            "RoundToInt": round,
            "ToFloat": float,
            "TruncToFloat": lambda a: float(math.trunc(a)),
            "TruncToInt": math.trunc,
            "Where": lambda test, a, b: a if test else b,
        }
    ),
    **{
        function: getattr(math, name.removeprefix("OpaqueUnaryFn_"))
        for name, function in vars(functions).items()
        if name.startswith("OpaqueUnaryFn_")
    },
}


def function_of(expression: sympy.Basic) -> Function:
    """An expression over sizes as a function that takes the size of each symbol.

    The function raises ``ArithmeticError`` where the expression has no value (a division by zero, the root of a
    negative number).
    """
    if isinstance(expression, sympy.Symbol):
        return operator.itemgetter(expression)
    if expression in (sympy.true, sympy.false):
        return _constant(bool(expression))
    if isinstance(expression, sympy.Integer):
        return _constant(int(expression))
    if isinstance(expression, sympy.Rational):
        return _constant(Fraction(int(expression.p), int(expression.q)))
    if isinstance(expression, sympy.Float):
        return _constant(float(expression))
    kind = type(expression)
    if kind in _FOLDED:
        return _folded(_FOLDED[kind], [function_of(operand) for operand in expression.args])
    if kind in _PLAIN:
        return _plain(_PLAIN[kind], [function_of(operand) for operand in expression.args])
    if isinstance(expression, sympy.Pow) and expression.exp.is_Integer:
        base, exponent = function_of(expression.base), int(expression.exp)
        # A negative power of an int is a float in Python, and must stay exact here.
        if exponent < 0:
            return lambda sizes: Fraction(1) / base(sizes) ** -exponent
        return lambda sizes: base(sizes) ** exponent
    if isinstance(expression, sympy.Piecewise):
        cases = [(function_of(pair.args[0]), function_of(pair.args[1])) for pair in expression.args]
        return lambda sizes: _first(cases, sizes)
    return lambda sizes: _number(expression.subs(dict(sizes)))


def _first(cases: list[tuple[Function, Function]], sizes: Sizes) -> Any:
    for value, test in cases:
        if test(sizes):
            return value(sizes)
    raise ArithmeticError("no case of a choice holds")


def _constant(value: Any) -> Function:
    return lambda sizes: value


def _plain(function: Callable[..., Any], operands: list[Function]) -> Function:
    if function.__module__ == "math" or function in (operator.lshift, operator.rshift):
        function = _with_arithmetic_errors(function)
    if len(operands) == 2:
        first, second = operands
        return lambda sizes: function(first(sizes), second(sizes))
    return lambda sizes: function(*[operand(sizes) for operand in operands])


def _with_arithmetic_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*operands: Any) -> Any:
        try:
            return function(*operands)
        except ValueError as error:
            raise ArithmeticError(str(error)) from None

    return checked


def _folded(function: Callable[[Any, Any], Any], operands: list[Function]) -> Function:
    if len(operands) == 2:
        return _plain(function, operands)
    return lambda sizes: reduce(function, [operand(sizes) for operand in operands])


def _number(value: sympy.Basic) -> Any:
    if value in (sympy.true, sympy.false):
        return bool(value)
    if value.free_symbols:
        raise ArithmeticError(f"{value} has no value")
    return int(value) if value.is_Integer else float(value)  # type: ignore[arg-type]


# Sizes of symbols at which expressions are compared: halves of both kinds, odd and even, one, some larger.
_TRIED = (5, 8, 1, 7, 12, 3, 33, 2, 10, 64, 101)


def difference(a: sympy.Basic, b: sympy.Basic) -> dict[sympy.Symbol, int] | None:
    """Sizes of the symbols at which two expressions have different values; None where none were found.

    A fixed set of sizes is tried, so None is no proof.  Numbers that need not be whole may differ by rounding.
    """
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    first, second = function_of(a), function_of(b)
    for turn, number in enumerate(_TRIED):
        sizes = {symbol: _TRIED[(turn + 3 * place) % len(_TRIED)] for place, symbol in enumerate(symbols)}
        sizes = sizes or {sympy.Dummy(): number}
        values = _value(first, sizes), _value(second, sizes)
        if None not in values and not _near(*values):
            return sizes
    return None


def _value(function: Function, sizes: Sizes) -> Any:
    try:
        return function(sizes)
    except ArithmeticError:
        return None


def _near(a: Any, b: Any) -> bool:
    if isinstance(a, float) or isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    return bool(a == b)


__all__ = ["COMPARISONS", "Function", "Sizes", "difference", "function_of", "named"]
