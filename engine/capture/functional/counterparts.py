"""Ops that write to their operand, and the ops that compute what is written."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

_INTEGERS = (int, torch.SymInt)
# Whose ops are named by what they do: a name with a line below is that of the op in place.
_NAMESPACES = frozenset({"aten", "_c10d_functional"})


def is_write(op: Any) -> bool:
    """Whether an op writes to one of its operands."""
    return isinstance(op, OpOverload) and op._schema.is_mutable


@cache
def counterpart(op: OpOverload) -> OpOverload | None:
    """The op that computes what an op writes to its first operand (``aten.add.Tensor`` of ``aten.add_.Tensor``).

    None where there is none: an op that writes to something else too, or changes the shape of its operand.
    """
    name, arguments = op._opname, op._schema.arguments
    if op.namespace not in _NAMESPACES or torch.Tag.inplace_view in op.tags:
        return None
    if not name.endswith("_") or name.endswith("__"):
        return None
    written = [position for position, argument in enumerate(arguments) if _is_written(argument)]
    if written != [0] or len(op._schema.returns) != 1:
        return None
    functional = getattr(getattr(getattr(torch.ops, op.namespace), name[:-1], None), op._overloadname, None)
    if functional is None or functional._schema.is_mutable:
        return None
    same = [_kind(argument) for argument in arguments] == [_kind(each) for each in functional._schema.arguments]
    return functional if same and len(functional._schema.returns) == 1 else None


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _kind(argument: Any) -> tuple[str, bool]:
    """The type of an argument and whether it is given by name."""
    return str(argument.real_type), argument.kwarg_only


_DTYPES: dict[Any, torch.dtype | None] = {}


def result_dtype(functional: OpOverload, node: fx.Node) -> torch.dtype | None:
    """The dtype of what a functional op gives for the arguments of a node; None where that cannot be found.

    An op that writes keeps the dtype of its operand, and its counterpart gives what PyTorch promotes to: the values
    of a float16 tensor to which a float32 one is added are float32 ones.  Each kind of call is tried once, on tensors
    without memory whose dims are all 1.
    """
    arguments = [*node.args, *node.kwargs.items()]
    key = (functional, *map(_described, arguments))
    if key not in _DTYPES:
        try:
            with torch.no_grad():
                made = functional(
                    *map(_alike, node.args), **{name: _alike(value) for name, value in node.kwargs.items()}
                )
            _DTYPES[key] = made.dtype if isinstance(made, torch.Tensor) else None
        except Exception:
            # Whatever an op raises for arguments that are not those of the node.
            _DTYPES[key] = None
    return _DTYPES[key]


def _described(value: Any) -> Any:
    """What of an argument the dtype of a result may depend on."""
    if isinstance(value, fx.Node):
        value = value.meta.get("val")
    if isinstance(value, torch.Tensor):
        return value.dtype, value.dim()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(_described, value))
    return int if isinstance(value, _INTEGERS) and not isinstance(value, bool) else type(value), str(value)


def _alike(value: Any) -> Any:
    """An argument that a call takes for one of a node."""
    if isinstance(value, fx.Node):
        value = value.meta.get("val")
    if isinstance(value, torch.Tensor):
        return torch.empty((1,) * value.dim(), dtype=value.dtype, device="meta")
    if isinstance(value, torch.SymInt | torch.SymFloat):
        return 1 if isinstance(value, torch.SymInt) else 1.0
    if isinstance(value, list | tuple):
        return [_alike(each) for each in value]
    return value


__all__ = ["counterpart", "is_write", "result_dtype"]
