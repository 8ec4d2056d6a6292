"""What evaluators share.

An evaluator takes a step and its input tensors, in the layer's order, None for one that is not set, and
returns the output tensor or a tuple of them.  It never writes to its inputs; it may return views of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from engine.interpreter.dtypes import HALF_FLOATS, NARROW_FLOATS, TORCH_DTYPES
from engine.interpreter.step import Step

Evaluator = Callable[..., Tensor | tuple[Tensor, ...]]


def in_float32(evaluator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compute float16 and bfloat16 in float32 and round once, as TensorRT's kernels accumulate."""

    @functools.wraps(evaluator)
    def wrapped(step: Step, *inputs: Tensor | None) -> Tensor:
        wide = [tensor.float() if tensor is not None and tensor.dtype in HALF_FLOATS else tensor for tensor in inputs]
        result = evaluator(step, *wide)
        return result.to(output_dtype(step)) if result.dtype == torch.float32 else result

    return wrapped


def by_bits(evaluator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Move float8 data as bytes: PyTorch has no kernels for it, and moving never looks at a value."""

    @functools.wraps(evaluator)
    def wrapped(step: Step, *inputs: Tensor | None) -> Tensor:
        narrow = next((t.dtype for t in inputs if t is not None and t.dtype in NARROW_FLOATS), None)
        if narrow is None:
            return evaluator(step, *inputs)
        raw = [t.view(torch.uint8) if t is not None and t.dtype == narrow else t for t in inputs]
        return evaluator(step, *raw).view(narrow)

    return wrapped


def output_dtype(step: Step, index: int = 0) -> torch.dtype:
    """The dtype that TensorRT declares for an output."""
    return TORCH_DTYPES[step.output_types[index]]


def axes_of(mask: int, rank: int) -> tuple[int, ...]:
    """The axes whose bits are set in ``mask``."""
    return tuple(axis for axis in range(rank) if mask >> axis & 1)


def integers(tensor: Tensor) -> list[int]:
    """The elements of a shape tensor."""
    return [int(value) for value in tensor.flatten().tolist()]


def resolve(attribute: Any, tensor: Tensor | None) -> list[int] | None:
    """A static attribute, or the input that replaces it."""
    if tensor is not None:
        return integers(tensor)
    return None if attribute is None else list(attribute)
