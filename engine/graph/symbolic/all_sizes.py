"""Whether a relation holds for every size of some ranges, found by computing it for all of them at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import sympy
from torch.utils._sympy import functions

from engine.graph.symbolic.size_functions import COMPARISONS, named
from engine.sizes import Sizes as Bounds

Ranges: TypeAlias = "Mapping[sympy.Symbol, tuple[int, int]]"

# Combinations of sizes that are computed; where there are more, ranges of expressions have to settle a relation.
_MOST = 1 << 18
# What whole numbers of 64 bits hold, with room for a sum; and what a double holds exactly.
_WHOLE, _EXACT = 1 << 61, 1 << 53


class _UnknownError(Exception):
    """An expression that arrays do not compute as Python does."""


def holds_for_all(relation: sympy.Basic, ranges: Ranges) -> bool:
    """Whether a relation is known to hold for all sizes from the first to the second of each range.

    A relation without a value, such as one that divides by zero, does not hold.
    """
    symbols = sorted(relation.free_symbols, key=str)
    spans = [ranges[symbol] for symbol in symbols]  # type: ignore[index]
    ends = [np.unique([low, (low + high) // 2, high]) for low, high in spans]
    try:
        # Most relations that do not hold for all sizes do not hold at the ends.
        if not _all(relation, symbols, ends):
            return False
        if math.prod(high - low + 1 for low, high in spans) <= _MOST:
            return _all(relation, symbols, [np.arange(low, high + 1) for low, high in spans])
    except _UnknownError:
        return False
    return Bounds(None, dict(zip(symbols, spans, strict=True))).decide(relation) is True  # type: ignore[arg-type]


def share_of_sizes(relation: sympy.Basic, ranges: Ranges) -> dict[sympy.Symbol, float]:
    """For each symbol, of which share of its sizes a relation holds, whatever those of the others are.

    Empty where there are too many combinations to look at, or the relation is not computed here.
    """
    symbols: list[Any] = sorted(relation.free_symbols, key=str)
    spans = [ranges[symbol] for symbol in symbols]
    if math.prod(high - low + 1 for low, high in spans) > _MOST:
        return {}
    meshes = np.meshgrid(*(np.arange(low, high + 1) for low, high in spans), indexing="ij", sparse=True)
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            holds = np.broadcast_to(
                _computed(relation, dict(zip(symbols, meshes, strict=True))), [high - low + 1 for low, high in spans]
            )
    except (_UnknownError, ArithmeticError):
        return {}
    axes = range(len(symbols))
    return {
        symbol: float(np.mean(np.any(holds, axis=tuple(other for other in axes if other != axis))))
        for axis, symbol in enumerate(symbols)
    }


def _all(relation: sympy.Basic, symbols: list[Any], sizes: list[Any]) -> bool:
    """Whether a relation holds for every combination of sizes."""
    meshes = np.meshgrid(*sizes, indexing="ij", sparse=True) if sizes else []
    values = dict(zip(symbols, meshes, strict=True))
    try:
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            return bool(np.all(_computed(relation, values)))
    except ArithmeticError:
        return False


def _computed(expression: Any, values: Mapping[Any, Any]) -> Any:
    if isinstance(expression, sympy.Symbol):
        return values[expression]
    if isinstance(expression, sympy.Integer):
        return np.int64(int(expression)) if abs(int(expression)) < _WHOLE else _unknown()
    if expression in (sympy.true, sympy.false):
        return np.bool_(bool(expression))
    if isinstance(expression, sympy.Float):
        return np.float64(float(expression))
    kind = type(expression)
    if isinstance(expression, sympy.Pow):
        exponent = expression.exp
        if not exponent.is_Integer or not 0 <= exponent <= 8:
            return _unknown()
        return reduce(_product, [_computed(expression.base, values)] * int(exponent), np.int64(1))
    if kind not in _FUNCTIONS:
        return _unknown()
    operands = [_computed(operand, values) for operand in expression.args]
    function = _FUNCTIONS[kind]
    return reduce(function, operands) if kind in _FOLDED else function(*operands)


def _unknown() -> Any:
    raise _UnknownError


def _greatest(value: Any) -> int:
    return int(np.max(np.abs(value))) if np.size(value) else 0


def _product(a: Any, b: Any) -> Any:
    if _is_whole(a) and _is_whole(b) and _greatest(a) * _greatest(b) >= _WHOLE:
        return _unknown()
    return a * b


def _sum(a: Any, b: Any) -> Any:
    if _is_whole(a) and _is_whole(b) and _greatest(a) + _greatest(b) >= _WHOLE:
        return _unknown()
    return a + b


def _is_whole(value: Any) -> bool:
    return bool(np.issubdtype(np.asarray(value).dtype, np.integer))


def _whole(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of whole numbers; Python has other rules for others."""
    return lambda *operands: function(*operands) if all(map(_is_whole, operands)) else _unknown()


def _quotient(a: Any, b: Any) -> Any:
    # Python rounds the exact quotient once, as a division of doubles does where both are exact.
    if any(_is_whole(value) and _greatest(value) >= _EXACT for value in (a, b)):
        return _unknown()
    return np.true_divide(a, b)


def _root(value: Any, exponent: Any = 0.5) -> Any:
    # Python's power of 0.5 and its root are the same where the root is whole, and lie between the same whole numbers.
    if np.ndim(exponent) or exponent != 0.5 or _is_whole(value):
        return _unknown()
    return np.sqrt(value)


def _rounded(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def to_whole(value: Any) -> Any:
        if _is_whole(value):
            return value
        return function(value).astype(np.int64) if _greatest(value) < _EXACT else _unknown()

    return to_whole


_FOLDED: dict[type, Callable[..., Any]] = {
    sympy.Add: _sum,
    sympy.Mul: _product,
    sympy.And: np.logical_and,
    sympy.Or: np.logical_or,
    sympy.Max: np.maximum,
    sympy.Min: np.minimum,
    functions.Max: np.maximum,
    functions.Min: np.minimum,
}
_FUNCTIONS: dict[type, Callable[..., Any]] = {
    **_FOLDED,
    **COMPARISONS,
    sympy.Not: np.logical_not,
    sympy.Abs: np.abs,
    sympy.Mod: _whole(np.mod),
    sympy.floor: _rounded(np.floor),
    sympy.ceiling: _rounded(np.ceil),
    **named(
        {
            "CeilDiv": _whole(lambda a, b: -(-a // b)),
            "CeilToInt": _rounded(np.ceil),
            "CleanDiv": _whole(np.floor_divide),
            "FloatPow": _root,
            "FloatTrueDiv": _quotient,
            "FloorDiv": _whole(np.floor_divide),
            "FloorToInt": _rounded(np.floor),
            "Identity": lambda a: a,
            "IntTrueDiv": _quotient,
            "Mod": _whole(np.mod),
            "ModularIndexing": _whole(lambda a, b, c: a // b % c),
            "OpaqueUnaryFn_sqrt": _root,
            "PythonMod": _whole(np.mod),
            "RoundToInt": _rounded(np.rint),
            "ToFloat": lambda a: a.astype(np.float64) if _greatest(a) < _EXACT else _unknown(),
            "TruncToInt": _rounded(np.trunc),
        }
    ),
}


__all__ = ["holds_for_all", "share_of_sizes"]
