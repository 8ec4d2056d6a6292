"""The sizes that the symbols of a captured graph may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy.value_ranges import ValueRanges

from engine.capture.examples import Wish
from engine.capture.inputs import Range, range_of, unbounded
from engine.capture.signature import Argument
from engine.capture.sizes.fixed_sizes import instead_of
from engine.capture.sizes.guards import Guard
from engine.errors import CaptureError, InputError
from engine.graph.symbolic.all_sizes import share_of_sizes
from engine.graph.symbolic.implied import hints_of
from engine.sizes import Int

# Larger bounds are torch.export's way of saying that there is none.
_NO_BOUND = 1 << 31


def find_ranges(
    arguments: Sequence[Argument],
    leaves: Sequence[Any] | None,
    wishes: Mapping[tuple[int, int], Wish],
    constraints: Mapping[Any, ValueRanges],
    shape_env: ShapeEnv,
    guards: Sequence[Guard],
    notes: list[str],
    waived: Sequence[Guard] = (),
    room: Mapping[sympy.Symbol, int] = MappingProxyType({}),
) -> dict[sympy.Symbol, Range]:
    """The range of every symbol of the inputs, from torch.export's constraints and the user's wishes.

    torch.export lets a size be 0 or 1 wherever its lower bound is 2 (its way to say "not specialised"),
    so such a bound means 1, unless the user gave one.  A named ``Dim`` begins at 0 unless it says otherwise, and keeps
    that lower bound.  Where several inputs share a symbol their
    ranges are intersected.  A dim without an upper bound gets ``unbounded`` of its example, or what there has to be
    ``room`` for.

    Raises ``CaptureError`` where the model fixes or narrows a dim for which the user gave a range.
    """
    asked = _wishes_by_argument(arguments, leaves, wishes)
    ranges: dict[sympy.Symbol, Range] = {}
    for symbol in find_symbols(arguments):
        low, high = _bounds(constraints.get(symbol))
        wanted = [(where, _of_symbol(wish, size, symbol)) for where, size, wish in asked if _is_made_of(size, symbol)]
        opt = _opt(symbol, arguments, leaves, wanted, shape_env)
        if wanted:
            if _is_of_waived(symbol, low, guards, waived):
                low = 0
            low, high = _intersected(symbol, low, high, wanted, guards, arguments)
        if low <= 2 and all(wish.min is None for _, wish in wanted):
            low = 0 if symbol in constraints and low == 0 else 1
        if high is None:
            high = max(unbounded(opt), low, room.get(symbol, 0))
            where = _first_place(symbol, arguments)
            notes.append(f"{where} has no upper bound; compiled for up to {high} (give it a range to change that)")
        ranges[symbol] = Range(low, min(max(opt, low), high), high)
    _check_wishes(asked, ranges)
    return ranges


def find_profiles(
    arguments: Sequence[Argument],
    leaves: Sequence[Any] | None,
    wishes: Mapping[tuple[int, int], Wish],
    ranges: Mapping[sympy.Symbol, Range],
) -> tuple[dict[sympy.Symbol, Range], ...]:
    """The ranges of every symbol in each optimization profile that the user asked for; none where he did not.

    Raises ``InputError`` where inputs have different numbers of profiles, or need sizes to be equal whose
    ranges in one profile have nothing in common.
    """
    asked = [found for found in _wishes_by_argument(arguments, leaves, wishes) if found[2].profiles]
    counts = {len(wish.profiles): where for where, _, wish in asked}
    if len(counts) > 1:
        text = " and ".join(f"{where} has {count}" for count, where in counts.items())
        raise InputError(f"inputs have different numbers of profiles: {text}")
    found: list[dict[sympy.Symbol, Range]] = []
    for index in range(next(iter(counts), 0)):
        profile = dict(ranges)
        for symbol, allowed in ranges.items():
            wanted = [wish.profiles[index] for _, size, wish in asked if size == symbol]
            low = max([allowed.min, *(each.min for each in wanted)])
            high = min([allowed.max, *(each.max for each in wanted)])
            if low > high:
                place = _first_place(symbol, arguments)
                raise InputError(f"profile {index} leaves no size for {place}, which has to equal other dims")
            opt = wanted[0].opt if wanted else allowed.opt
            profile[symbol] = Range(low, min(max(opt, low), high), high)
        found.append(profile)
    return tuple(found)


def narrow_ranges(
    ranges: dict[sympy.Symbol, Range],
    narrowed: Mapping[sympy.Symbol, tuple[int, int, Guard]],
    arguments: Sequence[Argument],
    leaves: Sequence[Any] | None,
    wishes: Mapping[tuple[int, int], Wish],
    notes: list[str],
) -> None:
    """Keep to the sizes for which the guards of a capture hold: symbol -> smallest, largest, guard.

    Raises ``CaptureError`` where the user gave a range with more in it.
    """
    asked = _wishes_by_argument(arguments, leaves, wishes)
    for symbol, (low, high, guard) in narrowed.items():
        known = ranges[symbol]
        low, high = max(low, known.min), min(high, known.max)
        why = _why(guard, arguments)
        for where, size, wish in asked:
            if isinstance(size, sympy.Expr) and symbol in size.free_symbols:
                ends = range_of(size, {**ranges, symbol: Range(low, low, high)})
                if (wish.min is not None and wish.min < ends.min) or (wish.max is not None and wish.max > ends.max):
                    raise CaptureError(_narrowed(where, wish, ends.min, ends.max, guard) + why)
        if (low, high) != (known.min, known.max):
            ranges[symbol] = Range(low, min(max(known.opt, low), high), high)
            place, size = _first_size(symbol, arguments)
            ends = range_of(size, ranges)
            notes.append(f"{place} is compiled for sizes from {ends.min} to {ends.max} only{why}")


def find_symbols(arguments: Sequence[Argument]) -> list[sympy.Symbol]:
    """The symbols of the sizes of all inputs, in order."""
    found: dict[sympy.Symbol, None] = {}
    for argument in arguments:
        for size in (*(argument.shape or ()), argument.symbol):
            if isinstance(size, sympy.Expr):
                found.update(dict.fromkeys(sorted(size.free_symbols, key=str)))
    return list(found)


def asked_from_zero(
    arguments: Sequence[Argument], leaves: Sequence[Any] | None, wishes: Mapping[tuple[int, int], Wish]
) -> set[sympy.Symbol]:
    """The symbols of dims for which a smallest size of 0 was given."""
    asked = _wishes_by_argument(arguments, leaves, wishes)
    return {size for _, size, wish in asked if isinstance(size, sympy.Symbol) and wish.min == 0}


def _wishes_by_argument(
    arguments: Sequence[Argument], leaves: Sequence[Any] | None, wishes: Mapping[tuple[int, int], Wish]
) -> list[tuple[str, Int, Wish]]:
    """``(place, size, wish)`` for every dim of which something was asked."""
    found: list[tuple[str, Int, Wish]] = []
    for argument, leaf in zip(arguments, leaves or (), strict=False):
        for dim, size in enumerate(argument.shape or ()):
            wish = wishes.get((id(leaf), dim))
            if wish is not None:
                found.append((f"dim {dim} of {argument}", size, wish))
    return found


def _is_made_of(size: Int, symbol: sympy.Symbol) -> bool:
    """Whether a size is ``a * symbol + b``, with a > 0, and nothing else."""
    if size == symbol:
        return True
    if not isinstance(size, sympy.Expr) or size.free_symbols != {symbol} or not size.is_polynomial(symbol):
        return False
    polynomial = sympy.Poly(size, symbol)
    return polynomial.degree() == 1 and bool(polynomial.LC() > 0)


def _of_symbol(wish: Wish, size: Int, symbol: sympy.Symbol) -> Wish:
    """What a wish for a size means for the symbol that it is made of."""
    if size == symbol:
        return wish
    slope, offset = map(int, sympy.Poly(size, symbol).all_coeffs())
    return replace(
        wish,
        opt=(wish.opt - offset) // slope,
        min=None if wish.min is None else -((offset - wish.min) // slope),
        max=None if wish.max is None else (wish.max - offset) // slope,
        profiles=(),
    )


def _bounds(constraint: ValueRanges | None) -> tuple[int, int | None]:
    if constraint is None:
        return 0, None
    # PyTorch's infinities for integers do not always say that they are not finite.
    low = int(constraint.lower) if constraint.lower.is_Integer else 0
    high = constraint.upper
    finite = bool(high.is_Integer) and high < _NO_BOUND
    return max(low, 0), int(high) if finite else None


def _opt(
    symbol: sympy.Symbol,
    arguments: Sequence[Argument],
    leaves: Sequence[Any] | None,
    wanted: Sequence[tuple[str, Wish]],
    shape_env: ShapeEnv,
) -> int:
    """The size to optimise for: what the user asked, what the example has, or what was traced with."""
    if wanted:
        return wanted[0][1].opt
    for argument, leaf in zip(arguments, leaves or (), strict=False):
        if argument.symbol == symbol and isinstance(leaf, int):
            return leaf
        if isinstance(leaf, torch.Tensor) and symbol in (argument.shape or ()):
            return int(leaf.shape[argument.shape.index(symbol)])  # type: ignore[union-attr]
    hints = hints_of(shape_env)
    hint = hints.get(symbol)
    return int(hint) if hint is not None else 2


def _intersected(
    symbol: sympy.Symbol,
    low: int,
    high: int | None,
    wanted: Sequence[tuple[str, Wish]],
    guards: Sequence[Guard],
    arguments: Sequence[Argument],
) -> tuple[int, int | None]:
    lows = [wish.min for _, wish in wanted if wish.min is not None]
    highs = [wish.max for _, wish in wanted if wish.max is not None]
    least, most = max(lows, default=low), min(highs, default=high)  # type: ignore[type-var]
    if least is not None and most is not None and least > most:
        places = " and ".join(f"{where} ({wish.min}..{wish.max})" for where, wish in wanted)
        raise CaptureError(f"the model needs {places} to be equal, and their ranges have no size in common")
    # Bounds up to 2 say nothing: see ``find_ranges``.
    if low > 2 and lows and low > least:
        where, wish = next((w for w in wanted if w[1].min is not None), wanted[0])
        raise CaptureError(_narrowed(where, wish, low, high) + _because(symbol, low - 1, guards, arguments))
    if high is not None and highs and most is not None and high < most:
        where, wish = next(w for w in wanted if w[1].max is not None)
        first = low if low > 2 or wish.min is None else wish.min
        raise CaptureError(_narrowed(where, wish, first, high) + _because(symbol, high + 1, guards, arguments))
    return least if lows else low, most if highs else high


def _is_of_waived(symbol: sympy.Symbol, low: int, guards: Sequence[Guard], waived: Sequence[Guard]) -> bool:
    """Whether a lower bound only comes of questions that calls are not held against.

    Tracing takes sizes that are made of a dim to be 2 or more too: where a convolution halves a dim, that is from 3 on.
    """

    def excluded(by: Sequence[Guard]) -> bool:
        return any(guard.symbols == (symbol,) and not guard.holds({symbol: low - 1}) for guard in by)

    return low > 2 and excluded(waived) and not excluded(guards)


def _because(symbol: sympy.Symbol, size: int, guards: Sequence[Guard], arguments: Sequence[Argument]) -> str:
    """Which guard does not hold of a size."""
    found = (guard for guard in guards if guard.symbols == (symbol,) and not guard.holds({symbol: size}))
    guard = next(found, None)
    return _why(guard, arguments) if guard is not None else ""


def _why(guard: Guard, arguments: Sequence[Argument]) -> str:
    at = f"at {guard.source}\n    " if guard.source else ""
    elsewhere = f"; elsewhere {guard.found}" if guard.found else ""
    return f"\n  {at}the way for {guard.text(arguments)} is what was captured{elsewhere}"


def _narrowed(where: str, wish: Wish, low: int, high: int | None, guard: Guard | None = None) -> str:
    inside = "make it static" if low == high else "give it a range inside that"
    if guard is not None and guard.fixes:
        inside += f", or write the line so that the size stays a size: {instead_of(guard.source)}"
    return (
        f"{where} was given the range {1 if wish.min is None else wish.min}..{wish.max or ''}, but the model only "
        f"holds for sizes from {low}{'' if high is None else f' to {high}'}: {inside}"
    )


# A relation that is left so few sizes of a dim is no condition on calls.
_FEW = 0.1


def refuse_what_holds_nowhere(
    missed: Sequence[Guard],
    ranges: Mapping[sympy.Symbol, Range],
    arguments: Sequence[Argument],
    leaves: Sequence[Any] | None,
    wishes: Mapping[tuple[int, int], Wish],
) -> None:
    """Raise ``CaptureError`` for an equality of several sizes that leaves next to nothing of a range that was given."""
    asked = _wishes_by_argument(arguments, leaves, wishes)
    for guard in missed:
        if not guard.relation.has(sympy.Eq) or len(guard.symbols) < 2:
            continue
        spans = {symbol: (ranges[symbol].min, ranges[symbol].max) for symbol in guard.symbols}
        for symbol, share in share_of_sizes(guard.relation, spans).items():
            given = [where for where, size, wish in asked if size == symbol and wish.dynamic and wish.max is not None]
            if share < _FEW and given:
                instead = f"\n  try: {instead_of(guard.source)}" if guard.fixes else ""
                raise CaptureError(
                    f"{given[0]} was given the range {ranges[symbol]}, but the model holds for next to none of these "
                    f"sizes{_why(guard, arguments)}{instead}"
                )


def _check_wishes(asked: Sequence[tuple[str, Int, Wish]], ranges: Mapping[sympy.Symbol, Range]) -> None:
    for where, size, wish in asked:
        if isinstance(size, int) and wish.dynamic and wish.min != wish.max:
            raise CaptureError(
                f"{where} was given the range {wish.min or 1}..{wish.max or ''}, but the model fixes it to {size}: "
                "make it static, or look for a size that forward turns into a Python number"
            )


def _first_place(symbol: sympy.Symbol, arguments: Sequence[Argument]) -> str:
    return _first_size(symbol, arguments)[0]


def _first_size(symbol: sympy.Symbol, arguments: Sequence[Argument]) -> tuple[str, Int]:
    """The first size that a symbol is part of, and where that is."""
    for argument in arguments:
        for dim, size in enumerate(argument.shape or ()):
            if isinstance(size, sympy.Expr) and symbol in size.free_symbols:
                return f"dim {dim} of {argument}", size
        if isinstance(argument.symbol, sympy.Expr) and symbol in argument.symbol.free_symbols:
            return str(argument), argument.symbol
    return str(symbol), symbol
