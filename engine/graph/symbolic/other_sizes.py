"""Whether shapes that were inferred while sizes were taken to be equal are right where they are not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import sympy
import torch
from torch._ops import OpOverload
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from engine.graph.arguments import Symbolic
from engine.graph.symbolic.size_functions import Sizes, function_of

# Sizes that are looked at, and those at which the op is tried; sizes far from the least tell no more.
_LOOKS, _TRIES, _SPREAD = 200, 3, 48


def holds_elsewhere(
    shape_env: ShapeEnv,
    op: OpOverload,
    positional: Sequence[Any],
    keywords: dict[str, Any],
    result: Any,
    needed: Sequence[sympy.Basic],
) -> bool:
    """Whether an op returns the shapes that were inferred also at sizes at which an equality does not hold.

    It runs on tensors without memory, at a few sizes that break one of ``needed``.  An op that refuses them gives
    nothing there.
    """
    arguments = (list(positional), keywords)
    symbols = sorted(_symbols((arguments, result)).union(*(r.free_symbols for r in needed)), key=str)
    chance = random.Random(0)
    tried = 0
    for _ in range(_LOOKS):
        sizes = {symbol: _size(shape_env, symbol, chance) for symbol in symbols}
        if all(_holds(relation, sizes) for relation in needed) or not _is_possible(shape_env, sizes):
            continue
        try:
            given = _result(op, arguments, sizes)
        except Exception:
            return False
        if _shapes(given, sizes) != _shapes(result, sizes):
            return False
        tried += 1
        if tried == _TRIES:
            break
    return True


def refuses(op: OpOverload, arguments: Any, sizes: Sizes) -> bool:
    """Whether an op raises an error at some sizes, run on tensors without memory."""
    try:
        _result(op, arguments, sizes)
    except Exception:
        return True
    return False


def _result(op: OpOverload, arguments: Any, sizes: Sizes) -> Any:
    with _disable_current_modes(), torch.no_grad():
        args, kwargs = pytree.tree_map(lambda leaf: _concrete(leaf, sizes), arguments)
        return op(*args, **kwargs)


def _size(shape_env: ShapeEnv, symbol: sympy.Symbol, chance: random.Random) -> int:
    known = shape_env.var_to_range.get(symbol)
    low = int(known.lower) if known is not None and known.lower.is_Integer else 2
    high = int(known.upper) if known is not None and known.upper.is_Integer else low + _SPREAD
    return chance.randint(low, max(low, min(high, low + _SPREAD)))


def _is_possible(shape_env: ShapeEnv, sizes: Sizes) -> bool:
    """Whether what is known of all calls holds of some sizes."""
    return all(_holds(guard.expr, sizes) for guard in shape_env.guards if guard.expr.free_symbols <= sizes.keys())


def _holds(relation: sympy.Basic, sizes: Sizes) -> bool:
    try:
        return bool(function_of(relation)(sizes))
    except ArithmeticError:
        return False


def _symbols(values: Any) -> set[sympy.Symbol]:
    found: set[sympy.Symbol] = set()
    for leaf in pytree.tree_leaves(values):
        sizes = (*leaf.shape, *leaf.stride()) if isinstance(leaf, torch.Tensor) else (leaf,)
        found.update(*(size.node.expr.free_symbols for size in sizes if isinstance(size, Symbolic)))
    return found


def _number(value: Any, sizes: Sizes) -> Any:
    return function_of(value.node.expr)(sizes) if isinstance(value, Symbolic) else value


def _concrete(leaf: Any, sizes: Sizes) -> Any:
    if isinstance(leaf, torch.Tensor):
        shape, strides = ([_number(size, sizes) for size in each] for each in (leaf.shape, leaf.stride()))
        return torch.empty_strided(shape, strides, dtype=leaf.dtype, device="meta")
    # The op runs where its tensors are.
    return torch.device("meta") if isinstance(leaf, torch.device) else _number(leaf, sizes)


def _shapes(values: Any, sizes: Sizes) -> list[Any]:
    leaves = pytree.tree_leaves(values)
    return [
        [_number(size, sizes) for size in leaf.shape] if isinstance(leaf, torch.Tensor) else _number(leaf, sizes)
        for leaf in leaves
    ]


__all__ = ["holds_elsewhere", "refuses"]
