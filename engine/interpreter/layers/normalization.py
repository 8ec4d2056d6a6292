"""Normalization by mean and variance over any axes, with groups of channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.interpreter.layers.common import Evaluator, axes_of, in_float32
from engine.interpreter.step import Step


@in_float32
def normalization(step: Step, x: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, the variance being the biased one.

    With more than one group the channels (axis 1) are split into groups, and each group is normalized over
    its channels and all axes after them.  Layers made by ``add_normalization`` then scale by group, shape
    [1, groups, 1, ...]; those made by ``add_normalization_v2`` by channel, shape [1, channels, 1, ...].
    """
    axes = axes_of(step["axes"], x.dim())
    groups, epsilon = step["num_groups"], step["epsilon"]
    if groups > 1:
        channels = x.shape[1]
        if channels % groups:
            raise ValueError(f"{channels} channels cannot be split into {groups} groups")
        if scale is not None and scale.shape[1] == groups != channels:
            scale = scale.repeat_interleave(channels // groups, 1)
            bias = None if bias is None else bias.repeat_interleave(channels // groups, 1)
        if all(_is_per_channel(tensor, channels) for tensor in (scale, bias)):
            return F.group_norm(x, groups, _flat(scale), _flat(bias), epsilon)
        normal = F.group_norm(x, groups, None, None, epsilon)
    elif axes == tuple(range(x.dim() - len(axes), x.dim())):
        inner = x.shape[x.dim() - len(axes) :]
        if all(_is_shaped(tensor, inner) for tensor in (scale, bias)):
            weight = None if scale is None else scale.reshape(inner)
            shift = None if bias is None else bias.reshape(inner)
            return F.layer_norm(x, inner, weight, shift, epsilon)
        normal = F.layer_norm(x, inner, None, None, epsilon)
    else:
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        normal = (x - mean) * torch.rsqrt(variance + epsilon)
    if scale is not None:
        normal = normal * scale
    return normal if bias is None else normal + bias


def _is_per_channel(tensor: Tensor | None, channels: int) -> bool:
    return tensor is None or (tensor.shape[1] == channels == tensor.numel())


def _is_shaped(tensor: Tensor | None, inner: torch.Size) -> bool:
    """Whether ``tensor`` has shape [1, ..., 1, *inner]."""
    return tensor is None or (tensor.shape[-len(inner) :] == inner and tensor.numel() == inner.numel())


def _flat(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.flatten()


EVALUATORS: dict[str, Evaluator] = {"NORMALIZATION": normalization}
