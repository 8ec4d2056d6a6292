"""Pooling: maximum, average and their blend."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.interpreter.layers.common import Evaluator, in_float32
from engine.interpreter.layers.convolution import pad_spatial, window_padding
from engine.interpreter.step import Step

_MAXIMUM = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@in_float32
def pooling(step: Step, x: Tensor) -> Tensor:
    """Slide a window over the last dimensions.

    An average divides by the window's overlap with the unpadded input, or, where padding counts, by the
    whole window (``IPoolingLayer::setAverageCountExcludesPadding``).  The latter includes what
    EXPLICIT_ROUND_UP reaches beyond the padding.  A maximum passes over NaN, alone and also in a blend.  Both observed
    on TensorRT-RTX 1.6.1, compute capability 9.0.
    """
    kind = step["type"]
    dtype = x.dtype
    x = x if x.is_floating_point() else x.float()
    if kind == "MAX":
        pooled = _maximum(step, x)
    elif kind == "AVERAGE":
        pooled = _average(step, x)
    else:
        blend = step["blend_factor"]
        pooled = (1 - blend) * _maximum(step, x) + blend * _average(step, x)
    return pooled if dtype.is_floating_point else pooled.round().to(dtype)


def _maximum(step: Step, x: Tensor) -> Tensor:
    window, stride = step["window_size_nd"], step["stride_nd"]
    x = x.masked_fill(x.isnan(), -math.inf)
    pre, post = window_padding(step, x.shape[-len(window) :], window, stride)
    pool = _MAXIMUM[len(window)]
    if pre == post and all(0 <= 2 * p <= w for p, w in zip(pre, window, strict=True)):
        return pool(x, window, stride, pre)  # type: ignore[no-any-return]
    return pool(pad_spatial(x, pre, post, -math.inf), window, stride)  # type: ignore[no-any-return]


def _average(step: Step, x: Tensor) -> Tensor:
    window, stride = step["window_size_nd"], step["stride_nd"]
    sizes = x.shape[-len(window) :]
    pre, post = window_padding(step, sizes, window, stride)
    excludes = step["average_count_excludes_padding"]
    pool = _AVERAGE[len(window)]
    if pre == post and all(0 <= 2 * p <= w for p, w in zip(pre, window, strict=True)):
        return pool(x, window, stride, pre, count_include_pad=not excludes)  # type: ignore[no-any-return, operator]
    whole = pool(pad_spatial(x, pre, post), window, stride)  # type: ignore[operator]
    if not excludes:
        return whole  # type: ignore[no-any-return]
    total = whole * math.prod(window)
    for axis, (width, pace, size) in enumerate(zip(window, stride, sizes, strict=True)):
        count = _overlaps(width, pace, -pre[axis], total.shape[axis - len(window)], size)
        total = total / count.reshape([-1] + [1] * (len(window) - axis - 1))
    return total  # type: ignore[no-any-return]


def _overlaps(width: int, stride: int, first: int, count: int, size: int) -> Tensor:
    """How many positions of each of ``count`` windows lie in [0, size)."""
    begins = torch.arange(count) * stride + first
    return (torch.clamp(begins + width, max=size) - torch.clamp(begins, min=0)).clamp(min=1).float()


EVALUATORS: dict[str, Evaluator] = {"POOLING": pooling}
