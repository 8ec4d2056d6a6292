"""Why an op stays in PyTorch, where its nature says more than that no rule takes it."""

from __future__ import annotations

import torch

SIZED_BY_DATA = "the size of its result depends on data"
# By PyTorch's own tags.
_TAGS = {
    torch.Tag.nondeterministic_seeded: "draws from PyTorch's generator",
    torch.Tag.dynamic_output_shape: SIZED_BY_DATA,
    torch.Tag.data_dependent_output: "gives a Python number, which is PyTorch's to hold",
}


def staying(op: object) -> str | None:
    """Why an op can only run in PyTorch; None where nothing is known about it."""
    if not isinstance(op, torch._ops.OpOverload):
        return None
    if op._schema.name.endswith("_backward"):
        return "of training only"
    return next((reason for tag, reason in _TAGS.items() if tag in op.tags), None)


__all__ = ["SIZED_BY_DATA", "staying"]
