"""Why an op can only run in PyTorch, where more is known than that no rule takes it."""

from __future__ import annotations

import torch

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
    if op._schema.name.endswith("_backward"):
        return "it is for training only"
    return next((reason for tag, reason in _TAGS.items() if tag in op.tags), None)


__all__ = ["SIZED_BY_DATA", "unsupported_reason"]
