"""Why an op can only run in PyTorch, where more is known than that no rule takes it."""

from __future__ import annotations

import sympy
import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from engine.distributed.collectives import REASON, is_collective
from engine.graph.mirror import Mirror

SIZED_BY_DATA = "the size of its result depends on data"
# By PyTorch's own tags.
_TAGS = {
    torch.Tag.nondeterministic_seeded: "it draws random numbers from PyTorch's generator",
    torch.Tag.dynamic_output_shape: SIZED_BY_DATA,
    torch.Tag.data_dependent_output: "it returns a Python number, and engines return only tensors",
}


def unsupported_reason(op: object) -> str | None:
    """Why an op can only run in PyTorch; None where nothing is known about it."""
    if not isinstance(op, torch._ops.OpOverload):
        return None
    if is_collective(op):
        return REASON
    if op._schema.name.endswith("_backward"):
        return "it is for training only"
    return next((reason for tag, reason in _TAGS.items() if tag in op.tags), None)


def with_nature(reason: str, mirror: Mirror, node: fx.Node) -> str:
    """Why a rule does not take a node, and first that no rule could where that is so."""
    return f"{SIZED_BY_DATA}; {reason}" if _is_sized_by_data(mirror, node) else reason


def _is_sized_by_data(mirror: Mirror, node: fx.Node) -> bool:
    """Whether an output has a size that no operand has: it is read from data (``x[mask]``)."""
    known: set[sympy.Symbol] = set()
    for operand in node.all_input_nodes:
        known |= _symbols_of_data(operand.meta.get("val"))
    return any(_symbols_of_data(mirror.fake(value)) - known for value in mirror.outputs(node))


def _symbols_of_data(value: object) -> set[sympy.Symbol]:
    return set(free_unbacked_symbols(value)) if isinstance(value, torch.Tensor | torch.SymInt) else set()


__all__ = ["unsupported_reason", "with_nature"]
