"""A model that uses the op, as ``engine coverage swish_ops.model:GatedBlock`` takes it."""

import torch
from torch import nn

from swish_ops.ops import scaled_swish


class GatedBlock(nn.Module):
    """A gated linear unit: down(swish(gate(x)) * up(x)), for x of shape [batch, width].

    Args:
        width: features that come in and go out.
        hidden: features between.
        beta: how steep the gate is.
    """

    example_inputs = (torch.zeros(2, 8),)

    def __init__(self, width: int = 8, hidden: int = 16, beta: float = 1.7):
        super().__init__()
        self.gate = nn.Linear(width, hidden)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.beta = beta

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(scaled_swish(self.gate(x), self.beta) * self.up(x))
