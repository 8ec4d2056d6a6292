"""Relations between sizes as functions of numbers, and as text that a user can read."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import reduce
from math import ceil, floor, trunc
from typing import Any, TypeAlias

import sympy
from torch.utils._sympy import functions
from torch.utils._sympy.printers import PythonPrinter

from engine.graph.symbols import COMPARISONS

Sizes: TypeAlias = "Mapping[sympy.Symbol, int]"
Function: TypeAlias = "Callable[[Sizes], Any]"


def _named(names: Mapping[str, Callable[..., Any]]) -> dict[type, Callable[..., Any]]:
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
    sympy.floor: floor,
    sympy.ceiling: ceil,
    **_named(
        {
            "FloorDiv": operator.floordiv,
            "CleanDiv": operator.floordiv,
            "CeilDiv": lambda a, b: -(-a // b),
            "Mod": operator.mod,
            "PythonMod": operator.mod,
            "ModularIndexing": lambda a, b, c: a // b % c,
            "IntTrueDiv": operator.truediv,
            "FloatTrueDiv": operator.truediv,
            "PowByNatural": operator.pow,
            "FloatPow": operator.pow,
            "LShift": operator.lshift,
            "RShift": operator.rshift,
            "CeilToInt": ceil,
            "FloorToInt": floor,
            "TruncToInt": trunc,
            "RoundToInt": round,
            "ToFloat": float,
            "TruncToFloat": lambda a: float(trunc(a)),
            "Identity": lambda a: a,
            "Where": lambda test, a, b: a if test else b,
        }
    ),
}


def function_of(expression: sympy.Basic) -> Function:
    """An expression over sizes as a function that takes the size of each symbol.

    The function raises ``ArithmeticError`` where the expression has no value (a division by zero).
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
        return lambda sizes: next(value(sizes) for value, test in cases if test(sizes))
    return lambda sizes: _number(expression.subs(dict(sizes)))


def _constant(value: Any) -> Function:
    return lambda sizes: value


def _plain(function: Callable[..., Any], operands: list[Function]) -> Function:
    if len(operands) == 2:
        first, second = operands
        return lambda sizes: function(first(sizes), second(sizes))
    return lambda sizes: function(*[operand(sizes) for operand in operands])


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


class _Words(PythonPrinter):  # type: ignore[misc]
    """Prints symbols as what they are the size of."""

    def __init__(self, names: Mapping[sympy.Symbol, str]) -> None:
        super().__init__()
        self._names = names

    def _print_Symbol(self, expr: sympy.Symbol) -> str:
        return self._names.get(expr, str(expr))

    def _print_Float(self, expr: sympy.Float) -> str:
        return repr(float(expr))

    def _print_ToFloat(self, expr: sympy.Expr) -> str:
        return f"float({self.doprint(expr.args[0])})"


def text_of(expression: sympy.Basic, names: Mapping[sympy.Symbol, str]) -> str:
    """An expression as Python, with ``x.shape[0]`` and the like instead of symbols."""
    text = str(_Words(names).doprint(expression))
    try:
        # Without the parentheses that nobody needs.
        return ast.unparse(ast.parse(text, mode="eval"))
    except SyntaxError:
        return text


__all__ = ["Function", "function_of", "text_of"]
