"""Layers that read or make indices: gather, scatter, one-hot, non-zero."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.interpreter.layers.common import Evaluator, by_bits, integers, output_dtype
from engine.interpreter.step import Step


def _wrap(indices: Tensor, length: int | Tensor) -> tuple[Tensor, Tensor]:
    """Indices counted from the front and clamped into bounds, and where they were in bounds."""
    indices = indices.long()
    indices = torch.where(indices < 0, indices + length, indices)
    inside = (indices >= 0) & (indices < length)
    top = length - 1 if isinstance(length, Tensor) else torch.tensor(length - 1)
    return torch.minimum(indices.clamp(min=0), top.clamp(min=0)), inside


@by_bits
def gather(step: Step, data: Tensor, indices: Tensor) -> Tensor:
    """Gather along an axis, element by element, or by index tuples.

    Negative indices count from the end; zero is stored for an access out of bounds (``IGatherLayer``).
    """
    mode, axis = step["mode"], step["axis"]
    if mode == "ELEMENT":
        return _gather_elements(data, indices, axis)
    if mode == "ND":
        return _gather_nd(data, indices, step["num_elementwise_dims"])
    return _gather_slices(data, indices, axis % data.dim(), step["num_elementwise_dims"])


def _gather_elements(data: Tensor, indices: Tensor, axis: int) -> Tensor:
    index, inside = _wrap(indices, data.shape[axis])
    return torch.where(inside, torch.gather(data, axis, index), torch.zeros((), dtype=data.dtype))


def _gather_slices(data: Tensor, indices: Tensor, axis: int, shared: int) -> Tensor:
    index, inside = _wrap(indices, data.shape[axis])
    if shared == 0:
        # Picking along the first axis is an embedding look-up, the one gather that has to be fast.
        picked = data.index_select(axis, index.flatten())
        picked = picked.reshape(data.shape[:axis] + index.shape + data.shape[axis + 1 :])
        if bool(inside.all()):
            return picked
        mask = inside.reshape((1,) * axis + index.shape + (1,) * (data.dim() - axis - 1))
    else:
        batch = max(data.shape[0], indices.shape[0])
        data = data.expand(batch, *data.shape[1:])
        index = index.expand(batch, *index.shape[1:])
        inside = inside.expand(index.shape)
        picked = torch.stack(
            [
                data[b]
                .index_select(axis - 1, index[b].flatten())
                .reshape(data.shape[1:axis] + index.shape[1:] + data.shape[axis + 1 :])
                for b in range(batch)
            ]
        )
        mask = inside.reshape((batch,) + (1,) * (axis - 1) + index.shape[1:] + (1,) * (data.dim() - axis - 1))
    return torch.where(mask, picked, torch.zeros((), dtype=data.dtype))


def _gather_nd(data: Tensor, indices: Tensor, shared: int) -> Tensor:
    depth = indices.shape[-1]
    lengths = torch.tensor(data.shape[shared : shared + depth])
    index, inside = _wrap(indices, lengths)
    mask = inside.all(-1)
    batch = []
    for axis in range(shared):
        view = [1] * mask.dim()
        view[axis] = mask.shape[axis]
        batch.append(torch.arange(mask.shape[axis]).reshape(view).expand(mask.shape))
    picked = data[(*batch, *index.unbind(-1))]
    mask = mask.reshape(mask.shape + (1,) * (picked.dim() - mask.dim()))
    return torch.where(mask, picked, torch.zeros((), dtype=data.dtype))


@by_bits
def scatter(step: Step, data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Copy ``data`` and store ``updates`` at ``indices``; storing twice in one place is undefined."""
    if step["mode"] == "ELEMENT":
        axis = step["axis"]
        index, inside = _wrap(indices, data.shape[axis])
        _require(inside)
        return data.scatter(axis, index, updates)
    index, inside = _wrap(indices, torch.tensor(data.shape[: indices.shape[-1]]))
    _require(inside)
    return data.index_put(tuple(index.unbind(-1)), updates)


def _require(inside: Tensor) -> None:
    if not bool(inside.all()):
        raise ValueError("an index is out of bounds")


def one_hot(step: Step, indices: Tensor, values: Tensor, depth: Tensor) -> Tensor:
    """A new axis that holds ``values[1]`` at each index and ``values[0]`` elsewhere."""
    count = integers(depth)[0]
    axis = step["axis"] % (indices.dim() + 1)
    index, inside = _wrap(indices, count)
    classes = torch.arange(count).reshape([-1] + [1] * (indices.dim() - axis))
    hot = (index.unsqueeze(axis) == classes) & inside.unsqueeze(axis)
    return torch.where(hot, values[1], values[0])


def non_zero(step: Step, x: Tensor) -> Tensor:
    """The positions of non-zero elements as columns, in row-major order."""
    return torch.nonzero(x).T.to(output_dtype(step))


EVALUATORS: dict[str, Evaluator] = {
    "GATHER": gather,
    "NON_ZERO": non_zero,
    "ONE_HOT": one_hot,
    "SCATTER": scatter,
}
