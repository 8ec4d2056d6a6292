"""Equalities of sizes that an operator needs, and that nobody was asked about while it was traced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sympy
import torch
from torch import fx
from torch._ops import OpOverload
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from engine.graph.arguments import map_values
from engine.graph.symbolic.other_sizes import refuses
from engine.graph.symbolic.size_functions import Sizes, function_of
from engine.sizes import normal


def implied_equalities(graph: fx.Graph, shape_env: ShapeEnv) -> Iterator[tuple[sympy.Basic, fx.Node]]:
    """Equalities that composite operators need, with the operator, each as soon as it is found.

    A composite that stays whole is traced without its parts: attention gives the shape of its query, whatever the
    lengths of keys and values are.  Sizes that are equal in the example, to each other or to a number, are taken
    apart, and the operator runs on tensors without memory.
    """
    for node in graph.nodes:
        if isinstance(node.target, OpOverload) and node.target._can_decompose():
            values = map_values((list(node.args), dict(node.kwargs)), _value)
            for group in _equal_by_chance(values, shape_env):
                yield from ((relation, node) for relation in _needed(node.target, values, group, shape_env))


def _value(item: Any) -> Any:
    return item.meta["val"] if isinstance(item, fx.Node) else item


def hints_of(shape_env: ShapeEnv) -> Any:
    """The sizes of the example, by symbol."""
    # The attribute was renamed in torch 2.12, where the old name warns.
    return shape_env.backed_var_to_val if hasattr(shape_env, "backed_var_to_val") else shape_env.var_to_val


def _equal_by_chance(values: Any, shape_env: ShapeEnv) -> Iterator[list[sympy.Expr]]:
    """Sizes of the tensors among some values that are not known to be equal, and are in the example; numbers first."""
    leaves = torch.utils._pytree.tree_leaves(values)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if len(tensors) < 2:
        return
    found: dict[int, dict[sympy.Expr, None]] = {}
    hints = hints_of(shape_env)
    sizes = {sympy.sympify(normal(size)): None for tensor in tensors for size in tensor.shape}
    # A one is broadcast: what is refused beside it says nothing of others.
    for size in sorted((size for size in sizes if size not in (0, 1)), key=lambda size: not size.is_Integer):
        if all(symbol in hints for symbol in size.free_symbols):
            found.setdefault(int(function_of(size)(hints)), {})[size] = None
    yield from (list(group) for group in found.values() if len(group) > 1)


def _needed(op: OpOverload, values: Any, group: Sequence[sympy.Expr], shape_env: ShapeEnv) -> Iterator[sympy.Basic]:
    usual = {symbol: int(value) for symbol, value in hints_of(shape_env).items()}
    for place, second in enumerate(group):
        for first in group[:place]:
            others = [size for size in group if size not in (first, second) and not size.is_Integer]
            # Another equality may be what the operator needs: it is kept by one of the two.
            ways = [_apart(usual, first, [second]), _apart(usual, first, [second, *others])]
            if None not in ways and not refuses(op, values, usual) and all(refuses(op, values, way) for way in ways):  # type: ignore[arg-type]
                yield sympy.Eq(first, second)
                break


def _apart(usual: Sizes, first: sympy.Expr, moved: Sequence[sympy.Expr]) -> dict[sympy.Symbol, int] | None:
    """Sizes of symbols at which some expressions are larger than another one; None where they move with it."""
    free = {symbol for size in moved for symbol in size.free_symbols} - first.free_symbols
    sizes = {symbol: value + (symbol in free) for symbol, value in usual.items()}
    values = {int(function_of(size)(sizes)) for size in moved}
    return sizes if int(function_of(first)(sizes)) not in values else None  # type: ignore[return-value]


__all__ = ["hints_of", "implied_equalities"]
