"""Ops whose results have PyTorch's default dtype, made to say which: it may be another one when they are called."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from engine.errors import EngineError
from engine.graph.mirror import Mirror
from engine.graph.symbolic import inference

_SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)
_WHOLE = frozenset({torch.bool, *_SIGNED, torch.uint8, torch.uint16, torch.uint32, torch.uint64})


def make_dtypes_explicit(graph: fx.Graph, mirror: Mirror) -> None:
    """Give ops that make floats of whole numbers, or of nothing, their dtype as an argument.

    Where an op has no such argument, its operands are cast first, which is how PyTorch defines it (``int / int``).
    """
    for node in list(graph.nodes):
        fake = node.meta.get("val")
        op = node.target
        if not isinstance(op, OpOverload) or op.namespace != "aten" or not isinstance(fake, torch.Tensor):
            continue
        operands = [operand for operand in node.all_input_nodes if isinstance(operand.meta.get("val"), torch.Tensor)]
        if fake.dtype in _WHOLE or any(operand.meta["val"].dtype not in _WHOLE for operand in operands):
            continue
        names = [argument.name for argument in op._schema.arguments]
        if "dtype" not in names:
            _cast_operands(graph, node, operands, mirror)
        elif names.index("dtype") < len(node.args):
            position = names.index("dtype")
            node.args = (*node.args[:position], node.args[position] or fake.dtype, *node.args[position + 1 :])
        else:
            node.kwargs = {**node.kwargs, "dtype": node.kwargs.get("dtype") or fake.dtype}


def _cast_operands(graph: fx.Graph, node: fx.Node, operands: list[fx.Node], mirror: Mirror) -> None:
    """Cast the operands of a node, where its result then has the same dtype."""
    fake: torch.Tensor = node.meta["val"]
    assert isinstance(node.target, OpOverload)
    cast = torch.ops.aten._to_copy.default
    fakes = {operand: _inferred(mirror, cast, (operand,), {"dtype": fake.dtype}) for operand in operands}

    def replaced(operand: fx.Node) -> Any:
        return fakes.get(operand, operand)

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), replaced)
    found = _inferred(mirror, node.target, args, kwargs) if operands and None not in fakes.values() else None
    if not isinstance(found, torch.Tensor) or found.dtype is not fake.dtype:
        return
    for operand in operands:
        with graph.inserting_before(node):
            made = graph.call_function(cast, (operand,), {"dtype": fake.dtype})
        made.meta = {**node.meta, "val": fakes[operand]}
        node.replace_input_with(operand, made)


def _inferred(mirror: Mirror, op: OpOverload, args: Any, kwargs: Any) -> Any:
    try:
        return inference.infer(mirror.fake_mode, mirror.shape_env, op, args, kwargs)
    except EngineError:
        return None


__all__ = ["make_dtypes_explicit"]
