"""Layers that move elements unchanged: shuffle, concatenation, padding, squeeze, unsqueeze, shape."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.interpreter.layers.common import Evaluator, by_bits, integers, output_dtype, resolve
from engine.interpreter.layers.convolution import pad_spatial
from engine.interpreter.step import Step


@by_bits
def shuffle(step: Step, x: Tensor, dims: Tensor | None = None) -> Tensor:
    """Transpose, reshape, transpose.

    In the reshape, 0 copies the size at the same position of the transposed input, unless
    ``zero_is_placeholder`` is off, and -1 takes what is left.
    """
    x = x.permute(step["first_transpose"][: x.dim()])
    shape = resolve(step["reshape_dims"], dims)
    if shape is not None:
        if step["zero_is_placeholder"]:
            shape = [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
        x = x.reshape(shape)
    return x.permute(step["second_transpose"][: x.dim()])


@by_bits
def concatenation(step: Step, *inputs: Tensor) -> Tensor:
    """The inputs one after the other along ``axis``."""
    return torch.cat(inputs, step["axis"])


@by_bits
def padding(step: Step, x: Tensor) -> Tensor:
    """Zeros around the last two dimensions; negative padding crops."""
    return pad_spatial(x, step["pre_padding_nd"], step["post_padding_nd"])


@by_bits
def squeeze(step: Step, x: Tensor, axes: Tensor) -> Tensor:
    """Remove axes of size 1; negative axes count from the end."""
    removed = [axis % x.dim() for axis in integers(axes)]
    for axis in removed:
        if x.shape[axis] != 1:
            raise ValueError(f"axis {axis} of shape {tuple(x.shape)} is not 1 and cannot be squeezed")
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in removed])


@by_bits
def unsqueeze(step: Step, x: Tensor, axes: Tensor) -> Tensor:
    """Insert axes of size 1 at positions of the output."""
    positions = integers(axes)
    rank = x.dim() + len(positions)
    for axis in sorted(axis % rank for axis in positions):
        x = x.unsqueeze(axis)
    return x


def shape(step: Step, x: Tensor) -> Tensor:
    """The sizes of the input, a tensor of one dimension."""
    return torch.tensor(x.shape, dtype=output_dtype(step))


@by_bits
def reverse_sequence(step: Step, x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse the first ``lengths[i]`` elements along the sequence axis in slice i of the batch axis."""
    batch, sequence = step["batch_axis"], step["sequence_axis"]
    size = x.shape[sequence]
    position = torch.arange(size)
    length = lengths.long()[:, None]
    source = torch.where(position < length, length - 1 - position, position)
    if batch > sequence:
        source = source.T
    view = [1] * x.dim()
    view[batch], view[sequence] = x.shape[batch], size
    return torch.gather(x, sequence, source.reshape(view).expand(x.shape))


EVALUATORS: dict[str, Evaluator] = {
    "CONCATENATION": concatenation,
    "PADDING": padding,
    "REVERSE_SEQUENCE": reverse_sequence,
    "SHAPE": shape,
    "SHUFFLE": shuffle,
    "SQUEEZE": squeeze,
    "UNSQUEEZE": unsqueeze,
}
