"""Which results of ops lie in the memory of their operands, and how what is written to them gets back there."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import cache
from typing import Any

import torch
from torch import fx
from torch._C import DispatchKey, _dispatch_has_kernel_for_dispatch_key
from torch._ops import OpOverload

_ATEN = torch.ops.aten

# Ops that give all elements of their operand, in its order: what is written to the result is reshaped.
_RESHAPES = frozenset(
    {
        _ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default, _ATEN.flatten.using_ints,
        _ATEN.unflatten.int, _ATEN.unsqueeze.default, _ATEN.squeeze.default, _ATEN.squeeze.dim, _ATEN.squeeze.dims,
        _ATEN.view_as.default, _ATEN.reshape_as.default, _ATEN.ravel.default, _ATEN.alias.default, _ATEN.detach.default,
    }
)  # fmt: skip
# Ops that exchange dims: they take back what they did.
_EXCHANGES = frozenset({_ATEN.transpose.int, _ATEN.t.default, _ATEN.swapaxes.default, _ATEN.swapdims.default})
# Views of a part, and the ops that give the whole with another part; both take the same further arguments.
_SCATTERS = {
    _ATEN.slice.Tensor: _ATEN.slice_scatter.default,
    _ATEN.select.int: _ATEN.select_scatter.default,
    _ATEN.diagonal.default: _ATEN.diagonal_scatter.default,
}
# Ops that give several views, and which of their arguments is the dim.
_PARTS = {
    _ATEN.split.Tensor: 2, _ATEN.split.sizes: 2, _ATEN.split_with_sizes.default: 2, _ATEN.chunk.default: 2,
    _ATEN.unbind.int: 1,
}  # fmt: skip
# Composite ops that PyTorch marks for what they do while a model is trained: without that they compute something new.
_NEW_UNLESS_TRAINED = frozenset({_ATEN.batch_norm.default, _ATEN._batch_norm_impl_index.default})


class Lies(Enum):
    """How the memory of a result is that of an operand."""

    APART = "it is not"
    WITHIN = "it is a part of it, seen in some way"
    THERE = "it is the same, seen the same way"
    UNKNOWN = "it may be"


def operand_of_view(node: fx.Node) -> fx.Node | None:
    """The operand in whose memory the result of a node may lie by the schema of its op; None if there is none."""
    op = node.target
    if op is operator.getitem:
        found = node.args[0]
        return found if isinstance(found, fx.Node) else None
    position = place_of_operand(op) if isinstance(op, OpOverload) else None
    if position is None or position >= len(node.args):
        return None
    operand = node.args[position]
    return operand if isinstance(operand, fx.Node) else None


@cache
def place_of_operand(op: OpOverload) -> int | None:
    """The argument of an op that its results may be views of."""
    results = [result.alias_info for result in op._schema.returns if result.alias_info is not None]
    sets = {name for result in results for name in result.before_set}
    for position, argument in enumerate(op._schema.arguments):
        # PyTorch does not say of which set the tensors of a list are.
        if argument.alias_info is not None and results and (not sets or sets & argument.alias_info.before_set):
            return position
    # Composite ops that give their operand where nothing is to do; their schemas do not say so.
    return 0 if op._schema.arguments and torch.Tag.maybe_aliasing_or_mutating in op.tags else None


@cache
def is_composite(op: OpOverload) -> bool:
    """Whether an op is only the ops that it calls."""
    key = DispatchKey.CompositeImplicitAutograd
    return key in op.py_kernels or bool(_dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd"))


def is_trained(node: fx.Node) -> bool:
    """Whether a composite op writes to operands, which its schema does not say: a normalisation that is trained."""
    if node.target not in _NEW_UNLESS_TRAINED:
        return False
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    place = names.index("training")
    return bool(node.args[place] if place < len(node.args) else node.kwargs.get("training", False))


def shares_storage(one: Any, other: Any) -> bool:
    """Whether two fake values (tensors, or lists of them) have a storage in common, as they were traced."""
    storages = set(_storages(one))
    return any(storage in storages for storage in _storages(other))


def _storages(value: Any) -> Iterator[int]:
    for each in value if isinstance(value, list | tuple) else (value,):
        if isinstance(each, torch.Tensor) and each.layout is torch.strided:
            yield each.untyped_storage()._cdata


def lies(node: fx.Node, operand: fx.Node, traced: bool) -> Lies:
    """How the result of a node lies in the memory of an operand that it may be a view of.

    Args:
        traced: the fake values are those of the trace, whose storages show what lies where.
    """
    op, value, source = node.target, node.meta.get("val"), operand.meta.get("val")
    if op is operator.getitem or (isinstance(op, OpOverload) and not is_composite(op)):
        return Lies.WITHIN
    if traced:
        if not shares_storage(value, source):
            return Lies.APART
        return Lies.THERE if _same_view(value, source) else Lies.WITHIN
    return Lies.APART if op in _NEW_UNLESS_TRAINED else Lies.UNKNOWN


def _same_view(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor) or one.dtype != other.dtype:
        return False
    numbers = [(*each.shape, *each.stride(), each.storage_offset()) for each in (one, other)]
    # Comparing symbolic sizes would ask whether they are equal.
    return list(map(_plain, numbers[0])) == list(map(_plain, numbers[1]))


def _plain(number: Any) -> Any:
    return number.node.expr if isinstance(number, torch.SymInt) else number


def written_back(
    view: fx.Node, args: Sequence[Any], base: fx.Node, source: fx.Node
) -> tuple[OpOverload, tuple[Any, ...]] | None:
    """The call that gives the whole of an operand with what was written to a view of it; None where there is none.

    Args:
        view: the node of the view, or the ``getitem`` of one of several that an op gives.
        args: the arguments of the view after its operand.
        base: the operand of the view, as it was before.
        source: the new value of the view.
    """
    op, rank = view.target, _rank(base)
    if op is operator.getitem:
        return _part_written_back(view, base, source)
    if view.kwargs:
        return None
    if op in _RESHAPES:
        return _ATEN.reshape_as.default, (source, base)
    if op in _EXCHANGES:
        return op, (source, *args)  # type: ignore[return-value]
    if op is _ATEN.permute.default and rank is not None:
        order = [dim % rank for dim in args[0]]
        return op, (source, [order.index(dim) for dim in range(rank)])
    scatter = _SCATTERS.get(op)  # type: ignore[call-overload]
    return None if scatter is None else (scatter, (base, source, *args))


def _part_written_back(item: fx.Node, base: fx.Node, source: fx.Node) -> tuple[OpOverload, tuple[Any, ...]] | None:
    views, index = item.args
    assert isinstance(views, fx.Node)
    position = _PARTS.get(views.target)  # type: ignore[call-overload]
    if position is None or views.kwargs:
        return None
    dim: Any = views.args[position] if position < len(views.args) else 0
    if views.target is _ATEN.unbind.int:
        return _ATEN.select_scatter.default, (base, source, dim, index)
    sizes = [part.shape[dim] for part in views.meta["val"][: index + 1]]  # type: ignore[operator]
    if not all(isinstance(size, int) for size in sizes):
        return None
    return _ATEN.slice_scatter.default, (base, source, dim, sum(sizes[:-1]), sum(sizes))


def _rank(node: fx.Node) -> int | None:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, torch.Tensor) else None


__all__ = [
    "Lies",
    "is_composite",
    "is_trained",
    "lies",
    "operand_of_view",
    "place_of_operand",
    "shares_storage",
    "written_back",
]
