"""Reads of memory by strides: ``as_strided`` reads the memory of its operand, whatever the operand's own shape.

The strides of the traced example decide: an operand that fills its memory, in whatever order of dims, is flattened in
that order, and ``as_strided_copy`` reads from there.  After this step ``as_strided_copy`` always has such an operand,
of one dim, and rules convert it; ``as_strided`` is left for an input of the model that does not fill its memory.

Why this step is not a rule: a rule sees values, with a shape and a dtype, and the right result depends on strides.
torch.export (2.13) writes down strides only as an attribute of the fake tensors of the traced graph, which hold while
the graph is as it was traced.  The first rewrite makes them wrong, because rules drop ops that only change strides
(``clone``, ``contiguous``) and give dims another order, so this runs while the graph is imported, before any rule.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from engine.errors import CaptureError
from engine.graph.provenance import describe

_OPS = (torch.ops.aten.as_strided.default, torch.ops.aten.as_strided_copy.default)


def lay_out_strided(graph: fx.Graph) -> None:
    """Give every read by strides an operand that lies end to end.

    Raises:
        CaptureError: the operand is computed and does not fill its memory, so that what is read is not known.
    """
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in _OPS:
            continue
        operand = node.args[0]
        order = _order(operand.meta["val"])
        if order is None:
            if operand.op != "placeholder":
                raise CaptureError(
                    f"{describe(node)} reads memory that is not its operand's: the operand is a view of a part. "
                    "Call .contiguous() before as_strided, or index the tensor"
                )
            node.target = torch.ops.aten.as_strided.default
            continue
        with graph.inserting_before(node):
            permuted = _call(graph, node, torch.ops.aten.permute.default, operand, order)
            flat = _call(graph, node, torch.ops.aten.reshape.default, permuted, [-1])
        size, stride = node.args[1], node.args[2]
        offset = node.args[3] if len(node.args) > 3 else node.kwargs.get("storage_offset")
        node.target = torch.ops.aten.as_strided_copy.default
        node.args = (flat, size, stride, 0 if offset is None else offset)
        node.kwargs = {}


def _call(graph: fx.Graph, origin: fx.Node, op: Any, operand: fx.Node, argument: list[int]) -> fx.Node:
    made = graph.call_function(op, (operand, argument))
    made.meta = {key: origin.meta[key] for key in ("stack_trace", "nn_module_stack") if key in origin.meta}
    made.meta["val"] = op(operand.meta["val"], argument)
    return made


def _order(fake: torch.Tensor) -> list[int] | None:
    """The dims from the outermost in memory to the innermost, None if the tensor does not fill its memory."""
    dims, strides = list(range(fake.dim())), fake.stride()
    if all(isinstance(number, int) for number in (*fake.shape, *strides)):
        dims.sort(key=lambda dim: (fake.shape[dim] != 1, -strides[dim]))
    expected: Any = 1
    for dim in reversed(dims):
        size = fake.shape[dim]
        if not (statically_known_true(size == 1) or statically_known_true(strides[dim] == expected)):
            return None
        # As PyTorch counts: strides of tensors without elements are those of tensors with some.
        expected = expected * torch.sym_max(size, 1)
    whole = fake.untyped_storage().nbytes() == fake.numel() * fake.element_size()
    return dims if statically_known_true(fake.storage_offset() == 0) and statically_known_true(whole) else None


__all__ = ["lay_out_strided"]
