"""Layers along axes: reduce, softmax, top-k, cumulative sum."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.interpreter.layers.common import Evaluator, axes_of, in_float32, integers, output_dtype
from engine.interpreter.step import Step


@in_float32
def reduce(step: Step, x: Tensor) -> Tensor:
    """Reduce the axes of a bit mask.  Integers stay integers; their average is cut towards zero.

    Maximum and minimum pass over NaN, of NaN alone they are what they are over nothing: so most kernels of
    TensorRT-RTX 1.6.1 do on compute capability 9.0.  Others keep a NaN, or one that comes first (short rows, or two
    reductions of one tensor), so that rules must not rely on either.  Over nothing, a sum is 0, a product 1, a maximum
    the lowest value and a minimum the highest (``ReduceOperation``).
    """
    op, keep = step["op"], step["keep_dims"]
    axes = axes_of(step["axes"], x.dim())
    if op == "SUM":
        return x.sum(axes, keepdim=keep, dtype=x.dtype)
    if op == "AVG":
        if x.is_floating_point():
            return x.mean(axes, keepdim=keep)
        count = math.prod(x.shape[axis] for axis in axes)
        total = x.sum(axes, keepdim=keep, dtype=torch.int64)
        return torch.div(total, max(count, 1), rounding_mode="trunc").to(x.dtype)
    if op == "PROD":
        for axis in reversed(axes):
            x = x.prod(axis, keepdim=keep, dtype=x.dtype)
        return x
    if x.is_floating_point():
        limit = -math.inf if op == "MAX" else math.inf
        x = x.masked_fill(x.isnan(), limit)
    else:
        limit = torch.iinfo(x.dtype).min if op == "MAX" else torch.iinfo(x.dtype).max
    if any(x.shape[axis] == 0 for axis in axes):
        return torch.full_like(x.sum(axes, keepdim=keep, dtype=x.dtype), limit)
    return x.amax(axes, keepdim=keep) if op == "MAX" else x.amin(axes, keepdim=keep)


@in_float32
def softmax(step: Step, x: Tensor) -> Tensor:
    """Softmax over the one axis of the bit mask."""
    axes = axes_of(step["axes"], x.dim())
    if len(axes) != 1:
        raise ValueError(f"softmax takes exactly one axis, not {axes}")
    return torch.softmax(x, axes[0])


def top_k(step: Step, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k largest or smallest in order, and where they were; of equal values the first comes first.

    NaN comes last, whether the largest or the smallest are asked for: observed on TensorRT-RTX 1.6.1, compute
    capability 9.0.  PyTorch takes it for the largest.
    """
    (axis,) = axes_of(step["axes"], x.dim())
    count = step["k"] if k is None else integers(k)[0]
    descending = step["op"] == "MAX"
    values, indices = torch.sort(x, dim=axis, descending=descending, stable=True)
    if descending and x.is_floating_point() and bool(values.isnan().any()):
        order = torch.sort(values.isnan().byte(), dim=axis, stable=True).indices
        values, indices = values.gather(axis, order), indices.gather(axis, order)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count).to(output_dtype(step, 1))


@in_float32
def cumulative(step: Step, x: Tensor, axis: Tensor) -> Tensor:
    """Running sums along an axis, forward or backward, with or without the element itself."""
    if step["op"] != "SUM":
        raise ValueError(f"cumulative operation {step['op']} is not known")
    dimension = integers(axis)[0]
    if step["reverse"]:
        x = x.flip(dimension)
    total = x.cumsum(dimension, dtype=x.dtype)
    if step["exclusive"]:
        zero = torch.zeros_like(total.narrow(dimension, 0, 1 if total.shape[dimension] else 0))
        size = max(total.shape[dimension] - 1, 0)
        total = torch.cat((zero, total.narrow(dimension, 0, size)), dimension)
    return total.flip(dimension) if step["reverse"] else total


@in_float32
def ragged_softmax(step: Step, x: Tensor, bounds: Tensor) -> Tensor:
    """Softmax over the first ``bounds`` elements of each row [..., Z, S]; the rest is zero."""
    inside = torch.arange(x.shape[-1]) < bounds.reshape(*x.shape[:-1], 1)
    weights = torch.softmax(x.masked_fill(~inside, -math.inf), -1)
    return torch.where(inside, weights, 0.0)


EVALUATORS: dict[str, Evaluator] = {
    "CUMULATIVE": cumulative,
    "RAGGED_SOFTMAX": ragged_softmax,
    "REDUCE": reduce,
    "SOFTMAX": softmax,
    "TOPK": top_k,
}
