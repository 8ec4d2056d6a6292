"""Resize and grid sampling."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.interpreter.layers.common import Evaluator, in_float32, integers
from engine.interpreter.step import Step

_ROUND: dict[str, Callable[[Tensor], Tensor]] = {
    "HALF_UP": lambda x: torch.floor(x + 0.5),
    "HALF_DOWN": lambda x: torch.ceil(x - 0.5),
    "FLOOR": torch.floor,
    "CEIL": torch.ceil,
}


@in_float32
def resize(step: Step, x: Tensor, dims: Tensor | None = None) -> Tensor:
    """Sample the input where ``ResizeCoordinateTransformation`` puts each output coordinate.

    The output shape is input 1, the ``shape`` attribute, or floor(size * scale) in float32.  Interpolation is
    separable, so one axis is resized after the other.
    """
    scales = step["scales"]
    if dims is not None:
        shape = integers(dims)
    elif scales:
        products = torch.tensor(x.shape, dtype=torch.float32) * torch.tensor(scales, dtype=torch.float32)
        shape = integers(products.floor())
    elif step["shape"] is not None:
        shape = list(step["shape"])
    else:
        raise ValueError("the layer has neither a shape nor scales")
    dtype = x.dtype
    if step["resize_mode"] != "NEAREST" and not dtype.is_floating_point:
        x = x.float()
    for axis, size in enumerate(shape):
        # Scales that are not a ratio of sizes still move coordinates by the scale itself.
        scale = scales[axis] if scales and dims is None else None
        if size != x.shape[axis] or (scale is not None and scale != 1):
            x = _resize_axis(step, x, axis, size, scale)
    return x.to(dtype)


def _resize_axis(step: Step, x: Tensor, axis: int, size: int, scale: float | None) -> Tensor:
    length = x.shape[axis]
    position = _coordinates(step, length, size, scale)
    mode = step["resize_mode"]
    if mode == "NEAREST":
        nearest = _ROUND[step["nearest_rounding"]](position).long().clamp(0, length - 1)
        return x.index_select(axis, nearest)
    base = position.floor()
    fraction = position - base
    taps, weights = (_cubic if mode == "CUBIC" else _linear)(step, fraction)
    total: Tensor | None = None
    share = torch.zeros_like(fraction)
    view = [-1] + [1] * (x.dim() - axis - 1)
    exclude = step["exclude_outside"] and mode == "CUBIC"
    parts = []
    for tap, weight in zip(taps, weights, strict=True):
        index = base.long() + tap
        if exclude:
            weight = torch.where((index < 0) | (index >= length), 0.0, weight)
        share = share + weight
        parts.append((index.clamp(0, length - 1), weight))
    for index, weight in parts:
        if exclude:
            weight = weight / share
        part = x.index_select(axis, index) * weight.float().reshape(view)
        total = part if total is None else total + part
    assert total is not None
    return total


def _coordinates(step: Step, length: int, size: int, scale: float | None) -> Tensor:
    """Where each output coordinate lies in the input, in float32 steps as on the device."""
    if size == 1 and step["selector_for_single_pixel"] == "UPPER":
        return torch.zeros(1, dtype=torch.float32)
    output = torch.arange(size, dtype=torch.float32)
    transformation = step["coordinate_transformation"]
    if transformation == "ALIGN_CORNERS":
        return output * ((length - 1) / (size - 1) if size > 1 else 0.0)
    ratio = length / size if scale is None else 1 / scale
    if transformation == "ASYMMETRIC":
        return output * ratio
    return (output + 0.5) * ratio - 0.5


def _linear(step: Step, fraction: Tensor) -> tuple[list[int], list[Tensor]]:
    return [0, 1], [1 - fraction, fraction]


def _cubic(step: Step, fraction: Tensor) -> tuple[list[int], list[Tensor]]:
    """Keys' kernel with coefficient A (``IResizeLayer::setCubicCoeff``)."""
    a = step["cubic_coeff"]
    weights = []
    for tap in (-1, 0, 1, 2):
        x = (fraction - tap).abs()
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        weights.append(torch.where(x <= 1, near, torch.where(x < 2, far, 0.0)))
    return [-1, 0, 1, 2], weights


_GRID_MODES = {"NEAREST": "nearest", "LINEAR": "bilinear", "CUBIC": "bicubic"}
_GRID_BORDERS = {"FILL": "zeros", "CLAMP": "border", "REFLECT": "reflection"}


@in_float32
def grid_sample(step: Step, x: Tensor, grid: Tensor) -> Tensor:
    """Sample ``x`` [N, C, H, W] at ``grid`` [N, H', W', 2], or in three dimensions; FILL is zero outside.

    A place that is NaN is -1: observed on TensorRT-RTX 1.6.1, compute capability 9.0.
    """
    if step["sample_mode"] not in _GRID_BORDERS:
        raise ValueError(f"grid sampling does not take sample mode {step['sample_mode']}")
    return F.grid_sample(
        x,
        grid.masked_fill(grid.isnan(), -1),
        mode=_GRID_MODES[step["interpolation_mode"]],
        padding_mode=_GRID_BORDERS[step["sample_mode"]],
        align_corners=step["align_corners"],
    )


EVALUATORS: dict[str, Evaluator] = {"GRID_SAMPLE": grid_sample, "RESIZE": resize}
