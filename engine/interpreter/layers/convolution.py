"""Convolution and deconvolution, in any number of spatial dimensions, and how both are padded."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from engine.interpreter.layers.common import Evaluator, in_float32
from engine.interpreter.step import Step

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_DECONVOLUTIONS = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

Padding = tuple[list[int], list[int]]


def window_padding(step: Step, sizes: Sequence[int], window: Sequence[int], stride: Sequence[int]) -> Padding:
    """Pre and post padding of a convolution or pooling under the step's ``PaddingMode``.

    The post padding is what makes a plain sliding window give the output size of the formulas documented
    at ``PaddingMode``; it is more than the declared one where EXPLICIT_ROUND_UP adds a last window.  The
    formulas of SAME give less than nothing where the stride is wider than the window; TensorRT then does not
    pad: observed for convolutions on TensorRT-RTX 1.6.1, compute capability 9.0.
    """
    mode = step["padding_mode"]
    pre, post = list(step["pre_padding"]), list(step["post_padding"])
    for axis, (size, width, pace) in enumerate(zip(sizes, window, stride, strict=True)):
        if mode.startswith("SAME"):
            total = max((size - 1) // pace * pace + width - size, 0)
            less = total // 2
            pre[axis] = less if mode == "SAME_UPPER" else total - less
            post[axis] = total - pre[axis]
        elif mode == "EXPLICIT_ROUND_UP":
            span = size + pre[axis] + post[axis] - width
            post[axis] += -(-span // pace) * pace - span
    return pre, post


def pad_spatial(x: Tensor, pre: Sequence[int], post: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad, or for negative numbers crop, the last dimensions of ``x``."""
    if not any(pre) and not any(post):
        return x
    return F.pad(x, [n for pair in zip(reversed(pre), reversed(post), strict=True) for n in pair], value=value)


@in_float32
def convolution(step: Step, x: Tensor, kernel: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Cross-correlation.  Kernel [K, C / groups, *window], static or input 1; bias [K], static or input 2."""
    window, stride, dilation = step["kernel_size_nd"], step["stride_nd"], step["dilation_nd"]
    kernel, bias = _parameters(step, x, kernel, bias, (step["num_output_maps"], -1, *window))
    extent = [1 + d * (f - 1) for d, f in zip(dilation, window, strict=True)]
    pre, post = window_padding(step, x.shape[2:], extent, stride)
    if pre == post and min(pre, default=0) >= 0:
        padding: Sequence[int] = pre
    else:
        x, padding = pad_spatial(x, pre, post), [0] * len(window)
    convolve = _CONVOLUTIONS[len(window)]
    return convolve(x, kernel, bias, stride, padding, dilation, step["num_groups"])  # type: ignore[no-any-return, operator]


@in_float32
def deconvolution(step: Step, x: Tensor, kernel: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The transpose of a convolution.  Kernel [C, K / groups, *window], static or input 1.

    The output is (I - 1) * S + DK long before the padding is cropped from its ends; SAME modes crop
    max(DK - S, 0) (``PaddingMode``).
    """
    window, stride, dilation = step["kernel_size_nd"], step["stride_nd"], step["dilation_nd"]
    kernel, bias = _parameters(step, x, kernel, bias, (x.shape[1], -1, *window))
    pre, post = list(step["pre_padding"]), list(step["post_padding"])
    mode = step["padding_mode"]
    if mode.startswith("SAME"):
        for axis, (f, s, d) in enumerate(zip(window, stride, dilation, strict=True)):
            total = max(1 + d * (f - 1) - s, 0)
            less = total // 2
            pre[axis] = less if mode == "SAME_UPPER" else total - less
            post[axis] = total - pre[axis]
    even = pre == post
    deconvolve = _DECONVOLUTIONS[len(window)]
    padding = pre if even else [0] * len(window)
    full = deconvolve(x, kernel, bias, stride, padding, [0] * len(window), step["num_groups"], dilation)
    return full if even else pad_spatial(full, [-n for n in pre], [-n for n in post])  # type: ignore[no-any-return]


def _parameters(
    step: Step, x: Tensor, kernel: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor | None]:
    if kernel is None:
        kernel = step["kernel"]
        if kernel is None:
            raise ValueError("the layer has no kernel weights")
        kernel = kernel.reshape(shape)
    bias = step["bias"] if bias is None else bias
    return kernel.to(x.dtype), None if bias is None else bias.to(x.dtype)


EVALUATORS: dict[str, Evaluator] = {"CONVOLUTION": convolution, "DECONVOLUTION": deconvolution}
