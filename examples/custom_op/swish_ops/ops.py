"""The op: what it computes, and its fake, by which PyTorch knows the shape of its result without running it."""

import torch


@torch.library.custom_op("swish_ops::scaled_swish", mutates_args=())
def scaled_swish(x: torch.Tensor, beta: float = 1.0) -> torch.Tensor:
    """Returns x * sigmoid(beta * x), for x of any floating dtype and shape."""
    return x * torch.sigmoid(beta * x)


@scaled_swish.register_fake
def _(x: torch.Tensor, beta: float = 1.0) -> torch.Tensor:
    return torch.empty_like(x)
