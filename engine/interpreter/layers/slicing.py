"""Slices with any stride, in and out of bounds."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.interpreter.layers.common import Evaluator, by_bits, integers, resolve
from engine.interpreter.step import Step


@by_bits
def slice_(
    step: Step,
    x: Tensor,
    start: Tensor | None = None,
    size: Tensor | None = None,
    stride: Tensor | None = None,
    fill: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    """Element i of an axis is element start + i * stride of the input.

    Strides may be positive, negative or zero.  ``SampleMode`` says what lies out of bounds: nothing
    (an error), the input repeated, its edge, the fill value (zero unless input 4 is set), or the input
    mirrored at the middle of its edge elements.
    """
    starts, sizes, strides = (
        resolve(step[name], tensor) for name, tensor in (("start", start), ("shape", size), ("stride", stride))
    )
    if starts is None or sizes is None or strides is None:
        raise ValueError("start, shape and stride must each be an attribute or an input")
    chosen = integers(axes) if axes is not None else list(step.attributes.get("axes") or range(x.dim()))
    if step["mode"] == "FILL" and 0 in x.shape and 0 not in sizes:
        return _filled(x, fill, [sizes[chosen.index(a)] if a in chosen else n for a, n in enumerate(x.shape)])
    outside: list[tuple[int, Tensor]] = []
    for axis, first, count, pace in zip(chosen, starts, sizes, strides, strict=True):
        x = _take(x, axis % x.dim(), first, count, pace, step["mode"], outside)
    for axis, mask in outside:
        value = torch.zeros((), dtype=x.dtype) if fill is None else fill.to(x.dtype).reshape(())
        x = torch.where(mask.reshape([-1] + [1] * (x.dim() - axis - 1)), value, x)
    return x


def _filled(x: Tensor, fill: Tensor | None, shape: list[int]) -> Tensor:
    value = torch.zeros((), dtype=x.dtype) if fill is None else fill.to(x.dtype).reshape(())
    return value.expand(shape)


def _take(
    x: Tensor, axis: int, first: int, count: int, pace: int, mode: str, outside: list[tuple[int, Tensor]]
) -> Tensor:
    length = x.shape[axis]
    final = first + (count - 1) * pace
    if count == 0:
        return x.narrow(axis, 0, 0)
    if 0 <= first < length and 0 <= final < length:
        if pace > 0:
            return x[(slice(None),) * axis + (slice(first, final + 1, pace),)]
        if pace == 0:
            sizes = list(x.shape)
            sizes[axis] = count
            return x.narrow(axis, first, 1).expand(sizes)
        return x.index_select(axis, torch.arange(first, final - 1, pace))
    index = torch.arange(count) * pace + first
    if mode == "STRICT_BOUNDS":
        raise ValueError(f"axis {axis} of length {length} has no elements {first} to {final}")
    if length == 0:
        raise ValueError(f"axis {axis} is empty and cannot be sampled in mode {mode}")
    if mode == "WRAP":
        index = index % length
    elif mode == "REFLECT":
        period = max(2 * (length - 1), 1)
        index = index % period
        index = torch.minimum(index, period - index) if length > 1 else torch.zeros_like(index)
    elif mode == "FILL":
        outside.append((axis, (index < 0) | (index >= length)))
    return x.index_select(axis, index.clamp(0, length - 1))


EVALUATORS: dict[str, Evaluator] = {"SLICE": slice_}
