"""Models with blocks of one structure, in which there is something to choose."""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))

    def forward(self, x):
        y = self.norm(x)
        q, k, v = (layer(y).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return x + nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Blocks(nn.Module):
    """``count`` blocks in a row, with weights of their own."""

    def __init__(self, count: int = 3, size: int = 16) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.blocks = nn.Sequential(*(Block(size) for _ in range(count)))

    def forward(self, x):
        return self.blocks(x)


def blocks(count: int = 3) -> nn.Module:
    return Blocks(count).eval()


example_inputs = (torch.linspace(-1, 1, 2 * 6 * 16).reshape(2, 6, 16).sin(),)
