"""What a guard that fails saw; and of one that nobody can settle, what the user can do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sympy
import torch
from torch.utils._sympy.functions import FloorDiv, Mod

from engine.dsl import tree
from engine.evaluator.builtins import describe
from engine.evaluator.plan import AbstractTensor
from engine.sizes import Sizes

_MOST_SHOWN = 8


def undecided(value: tree.Expr, relation: sympy.Basic, names: Mapping[str, Any], sizes: Sizes) -> str:
    """Of a guard that holds for some of the sizes allowed only: which sizes those are, and what settles it.

    Args:
        value: the guard.
        relation: what it came to.
        names: what the rule has bound so far.
    """
    asked = {name: item for name, item in _read(value, names) if isinstance(item, sympy.Expr)}
    asked = asked or {str(symbol): symbol for symbol in _symbols(relation)}
    about = [f"{name} is {_range(size, sizes)}" for name, size in asked.items()]
    remedies = [f"`{factor} * Dim(...)` settles it" for factor in _factors(relation)] or [_bound(relation)]
    return "; ".join([", ".join(about) or str(relation), *filter(None, remedies)])


def found(value: tree.Expr, names: Mapping[str, Any], sizes: Sizes) -> str:
    """What an expression reads, as far as that is short: numbers, strings, sizes, and tensors by dtype and shape."""
    read = dict(_read(value, names))
    return ", ".join(f"{name} is {_shown(item, sizes)}" for name, item in read.items() if _short(item))


def _short(item: Any) -> bool:
    if isinstance(item, list | tuple):
        return len(item) <= _MOST_SHOWN and all(map(_short, item))
    return item is None or isinstance(item, int | float | str | sympy.Basic | AbstractTensor | torch.dtype)


def _shown(item: Any, sizes: Sizes) -> str:
    return f"{item} ({_range(item, sizes)})" if isinstance(item, sympy.Expr) else describe(item)


def _symbols(relation: sympy.Basic) -> list[sympy.Symbol]:
    return sorted(relation.free_symbols, key=str)  # type: ignore[type-var]


def _read(value: object, names: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The names that an expression reads, with their values, and the dims that it asks for, as they are written."""
    if isinstance(value, tree.Name | tree.Upper):
        if value.name in names:
            yield value.name, names[value.name]
    elif isinstance(value, tree.Call):
        asks = value.function.name if isinstance(value.function, tree.Name) else ""
        tensor, axis = (*value.arguments, None, None)[:2]
        bound = names.get(tensor.name) if isinstance(tensor, tree.Name) else None
        shape = bound.shape if isinstance(bound, AbstractTensor) else None
        index = axis.value if isinstance(axis, tree.Literal) else None
        if asks == "rank" and shape is not None:
            yield f"rank({tensor.name})", len(shape)  # type: ignore[union-attr]
        elif asks == "dim" and shape is not None and isinstance(index, int) and -len(shape) <= index < len(shape):
            yield f"dim({tensor.name}, {index})", shape[index]  # type: ignore[union-attr]
        else:
            yield from _read(value.arguments, names)
    elif isinstance(value, tuple):
        for item in value:
            yield from _read(item, names)
    elif isinstance(value, tree.Node):
        for name in value.__dataclass_fields__:
            if name != "span":
                yield from _read(getattr(value, name), names)


def _range(size: sympy.Expr, sizes: Sizes) -> str:
    low, high = sizes.range(size)
    return f"{'...' if low is None else low}..{'' if high is None else high}"


def _factors(relation: sympy.Basic) -> list[int]:
    """By what a size must be divisible where a relation asks for the remainder to be 0."""
    factors = set()
    for equation in relation.atoms(sympy.Eq):
        left = equation.lhs - equation.rhs
        for division in equation.atoms(FloorDiv, Mod):
            base, divisor = division.args
            if divisor.is_Integer and base.is_Symbol:
                remainders = (base - divisor * FloorDiv(base, divisor), Mod(base, divisor))
                if any(sympy.expand(sign * left - asked) == 0 for sign in (1, -1) for asked in remainders):
                    factors.add(int(divisor))
    return sorted(factors)


def _bound(relation: sympy.Basic) -> str:
    """The range of one size that settles a comparison with a number."""
    if not isinstance(relation, sympy.Rel) or len(relation.free_symbols) != 1:
        return ""
    symbol, number = relation.lhs, relation.rhs
    if not symbol.is_Symbol:
        relation, symbol, number = relation.reversed, relation.rhs, relation.lhs
    if not (symbol.is_Symbol and number.is_Integer):
        return ""
    low = {sympy.Ge: int(number), sympy.Gt: int(number) + 1}.get(type(relation))
    high = {sympy.Le: int(number), sympy.Lt: int(number) - 1}.get(type(relation))
    if isinstance(relation, sympy.Eq):
        return f"a size of {number} that is not dynamic settles it"
    if low is not None:
        return f"a range from {low} on settles it"
    return f"a range up to {high} settles it" if high is not None else ""


__all__ = ["found", "undecided"]
