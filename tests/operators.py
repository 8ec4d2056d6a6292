"""Operators that no rule knows, as users bring them."""

import torch


@torch.library.custom_op("engine_tests::swirl", mutates_args=())
def swirl(x: torch.Tensor) -> torch.Tensor:
    return torch.sin(x) * x


@swirl.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("engine_tests::halves", mutates_args=())
def halves(x: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    middle = x.shape[-1] // 2
    return x[..., :middle] * scale, x[..., middle:] - scale


@halves.register_fake
def _(x: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    middle = x.shape[-1] // 2
    return x.new_empty([*x.shape[:-1], middle]), x.new_empty([*x.shape[:-1], x.shape[-1] - middle])
