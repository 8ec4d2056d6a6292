"""Tensors that an engine cannot take, and what to pass instead."""

from __future__ import annotations

from collections.abc import Callable

import torch

is_transforming: Callable[[], int | None] = torch._C._functorch.maybe_current_level
"""The level of ``torch.vmap`` or ``torch.func`` that the caller is inside; None outside."""


def unfit(value: torch.Tensor) -> str:
    """Why an engine cannot take a tensor, and what to do; empty for a dense array of numbers, which it can."""
    if is_transforming() is not None and torch._C._functorch.is_functorch_wrapped_tensor(value):
        how = "torch.vmap" if torch._C._functorch.is_batchedtensor(value) else "a transform of torch.func"
        return (
            f"is inside {how}, which cannot look into an engine: call the compiled module outside of it, with a "
            "batch dim of its own (dynamic_shapes, or engine.Input, give it a range)"
        )
    if value.is_nested:
        return "is a nested tensor: pass a padded one (torch.nested.to_padded_tensor)"
    if value.layout is not torch.strided:
        return f"has the layout {value.layout}: pass a dense tensor (tensor.to_dense())"
    if value.is_quantized:
        return f"is a quantized tensor ({value.dtype}): pass tensor.dequantize() or tensor.int_repr()"
    return ""


__all__ = ["is_transforming", "unfit"]
