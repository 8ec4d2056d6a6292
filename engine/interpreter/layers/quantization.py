"""Quantize, dequantize and dynamic quantize."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.interpreter.dtypes import FP4_VALUES
from engine.interpreter.layers.common import Evaluator, output_dtype
from engine.interpreter.step import Step

_FP8_MAX, _FP4_MAX = 448.0, 6.0


def spread(step: Step, scale: Tensor, x: Tensor) -> Tensor:
    """``scale`` as float32 over the shape of ``x``: one value, one per slice of an axis, or one per block."""
    scale = scale.float()
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.dim() == 1 and (x.dim() > 1 or scale.numel() == x.numel()):
        axis = step["axis"] % x.dim()
        return scale.reshape([-1] + [1] * (x.dim() - axis - 1))
    for axis, (size, blocks) in enumerate(zip(x.shape, scale.shape, strict=True)):
        if size % blocks:
            raise ValueError(f"{blocks} blocks do not divide axis {axis} of size {size}")
        scale = scale.repeat_interleave(size // blocks, axis)
    return scale


def to_quantized(x: Tensor, kind: str) -> Tensor:
    """Round to nearest, ties to even, and saturate to the range of data type ``kind``."""
    if kind == "INT8":
        return x.round().clamp(-128, 127).to(torch.int8)
    if kind == "INT4":
        return x.round().clamp(-8, 7).to(torch.int8)
    if kind == "FP8":
        return x.clamp(-_FP8_MAX, _FP8_MAX).to(torch.float8_e4m3fn)
    if kind == "FP4":
        return _to_fp4(x).to(torch.float8_e4m3fn)
    raise ValueError(f"cannot quantize to {kind}")


def _to_fp4(x: Tensor) -> Tensor:
    values = torch.tensor(FP4_VALUES)
    middles = (values[1:] + values[:-1]) / 2
    size = x.abs().clamp(max=_FP4_MAX)
    index = torch.bucketize(size, middles)  # a tie goes to the lower neighbour here
    tie = (index < len(middles)) & (size == middles[index.clamp(max=len(middles) - 1)])
    index = torch.where(tie & (index % 2 == 1), index + 1, index)
    return torch.copysign(values[index], x)


def quantize(step: Step, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """clamp(round(x / scale) + zero).

    TensorRT multiplies by the reciprocal of the scale, in the data type of ``x``: both the reciprocal and the
    product are rounded to it.  Observed in float16 and bfloat16 on TensorRT-RTX 1.6.1, compute capability 9.0.
    """
    factor = spread(step, scale, x).reciprocal().to(x.dtype)
    scaled = (x * factor).float()
    if zero is not None:
        scaled = scaled.round() + spread(step, zero, x)
    return to_quantized(scaled, step.output_types[0])


def dequantize(step: Step, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """(x - zero) * scale."""
    values = x.float()
    if zero is not None:
        values = values - spread(step, zero, x)
    return (values * spread(step, scale, x)).to(output_dtype(step))


def dynamic_quantize(step: Step, x: Tensor, double: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Quantize in blocks, each by the scale that brings its largest magnitude to the end of the range.

    The scales are the second output, themselves divided by the scalar ``double`` and rounded to their
    type; values are divided by the scale as it was rounded.  E8M0 scales are powers of two, rounded up
    so that nothing saturates.  Needs a GPU of compute capability 10 or later in TensorRT.
    """
    block = _block_shape(step, x)
    kind, scale_kind = step.output_types
    limit = _FP4_MAX if kind == "FP4" else _FP8_MAX
    values = x.float()
    split: list[int] = []
    for size, width in zip(x.shape, block, strict=True):
        if size % width:
            raise ValueError(f"blocks of {width} do not divide an axis of size {size}")
        split += [size // width, width]
    blocks = values.reshape(split)
    largest = blocks.abs().amax(tuple(range(1, len(split), 2)), keepdim=True)
    outer = 1.0 if double is None else double.float().reshape(())
    scales = largest / limit / outer
    if scale_kind == "E8M0":
        stored = torch.exp2(torch.ceil(torch.log2(scales)).clamp(-127, 127)).to(torch.float8_e8m0fnu)
    elif scale_kind == "FP8":
        stored = scales.clamp(max=_FP8_MAX).to(torch.float8_e4m3fn)
    else:
        stored = scales.to(output_dtype(step, 1))
    real = stored.float() * outer
    scaled = torch.where(real == 0, 0.0, blocks / real)
    return to_quantized(scaled.reshape(x.shape), kind), stored.reshape(split[::2])


def _block_shape(step: Step, x: Tensor) -> list[int]:
    shape = step.attributes.get("block_shape")
    if shape:
        return [size if width < 0 else width for size, width in zip(x.shape, shape, strict=True)]
    widths = [1] * x.dim()
    widths[step["axis"]] = step["block_size"]
    return widths


EVALUATORS: dict[str, Evaluator] = {
    "DEQUANTIZE": dequantize,
    "DYNAMIC_QUANTIZE": dynamic_quantize,
    "QUANTIZE": quantize,
}
