"""Optimization profiles: the sizes that dynamic dims of network inputs may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import sympy
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

from engine.sizes import Int, Sizes, normal

Bounds: TypeAlias = "tuple[int, int, int]"  # min, opt, max

# TensorRT wants a largest size for every dim; this one stands for a size that nothing bounds, such as the number
# of elements that a mask selects.
_UNBOUNDED = 1 << 16


class ProfileRanges:
    """Smallest, usual and largest values of symbolic ints.

    ``ranges`` are those of the compilation's inputs; other symbols take theirs from the ``ShapeEnv``.
    """

    def __init__(self, sizes: Sizes, ranges: Mapping[sympy.Symbol, Sequence[int]]) -> None:
        self._sizes = sizes
        self._ranges: dict[sympy.Symbol, Bounds] = {}
        for symbol, bounds in ranges.items():
            low, best, high = bounds
            self._ranges[symbol] = (int(low), int(best), int(high))

    def of(self, size: Int) -> Bounds:
        """Smallest, usual and largest value of a size."""
        if isinstance(size, int):
            return size, size, size
        if isinstance(size, sympy.Symbol):
            return self._symbol(size)
        symbols = {symbol: self._symbol(symbol) for symbol in size.free_symbols}
        bounds = bound_sympy(
            size,
            {s: ValueRanges(sympy.Integer(low), sympy.Integer(high)) for s, (low, _, high) in symbols.items()},
        )
        best = normal(size.xreplace({symbol: sympy.Integer(usual) for symbol, (_, usual, _) in symbols.items()}))
        low = int(bounds.lower) if bounds.lower.is_Integer else 0
        high = int(bounds.upper) if bounds.upper.is_Integer else _UNBOUNDED
        usual = best if isinstance(best, int) else low
        return low, min(max(usual, low), high), high

    def _symbol(self, symbol: sympy.Symbol) -> Bounds:
        found = self._ranges.get(symbol)
        if found is None:
            low, high = self._sizes.range(symbol)
            low = max(low or 0, 0)
            high = _UNBOUNDED if high is None or high > 1 << 31 else high
            found = self._ranges[symbol] = (low, max(low, min(high, 256)), max(low, high))
        return found


def with_opt_shapes(
    profiles: Sequence[Mapping[sympy.Symbol, Sequence[int]]],
) -> list[Mapping[sympy.Symbol, Sequence[int]]]:
    """Profiles of exactly the usual sizes of each, and these; of equally near profiles, a call takes the first."""
    found: list[Mapping[sympy.Symbol, Sequence[int]]] = []
    for ranges in profiles:
        exact = {symbol: (usual, usual, usual) for symbol, (_, usual, _) in ranges.items()}
        found += [each for each in (exact, ranges) if each not in found]
    return found


def optimization_profile(
    builder: Any,
    tensors: Sequence[tuple[str, Sequence[Int]]],
    scalars: Sequence[tuple[str, sympy.Expr]],
    ranges: ProfileRanges,
) -> Any:
    """A profile for inputs with dynamic dims and for size inputs, None if there are neither.

    Args:
        tensors: name and shape of every tensor input.
        scalars: name and expression of every size input that shapes depend on.
    """
    profile = None
    for name, shape in tensors:
        if all(isinstance(size, int) for size in shape):
            continue
        profile = profile or builder.create_optimization_profile()
        bounds = [ranges.of(size) for size in shape]
        # A dim is never negative, whatever interval arithmetic thinks of an expression.
        profile.set_shape(name, *(tuple(max(bound[i], 0) for bound in bounds) for i in range(3)))
    for name, expression in scalars:
        profile = profile or builder.create_optimization_profile()
        profile.set_shape_input(name, *([bound] for bound in ranges.of(expression)))
    return profile


__all__ = ["Bounds", "ProfileRanges", "optimization_profile"]
