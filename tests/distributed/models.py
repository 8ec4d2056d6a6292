"""Models that several ranks run together, and what these models do whole."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import distributed, nn
from torch.distributed import _functional_collectives as funcol
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

WIDTH, HEADS = 16, 4


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        # Each rank has some of the heads.
        q, k, v = (
            layer(x).view(batch, length, -1, WIDTH // HEADS).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A layer of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x)))


TENSOR = {
    "attention.query": ColwiseParallel,
    "attention.key": ColwiseParallel,
    "attention.value": ColwiseParallel,
    "attention.out": RowwiseParallel,
    "up": ColwiseParallel,
    "down": RowwiseParallel,
}
"""A plan of tensor parallelism for a block; what a rank takes and gives is whole."""


@functools.cache
def mesh() -> DeviceMesh:
    """All ranks in a row."""
    return init_device_mesh("cpu", (distributed.get_world_size(),), mesh_dim_names=("tp",))


def block(seed: int = 0) -> Block:
    """A block that is the same on every rank."""
    torch.manual_seed(seed)
    return Block().eval()


def parallel(seed: int = 0) -> Block:
    """A block whose parameters are sharded over all ranks."""
    return parallelize_module(block(seed), mesh(), {name: style() for name, style in TENSOR.items()})


class Perceptron(nn.Module):
    """Two layers and what is added to them; small, because tracing DTensors takes a second for every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.norm(x))

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x)))


def perceptron(seed: int = 0) -> Perceptron:
    """Column and row parallel: inputs and results are whole on every rank."""
    torch.manual_seed(seed)
    return parallelize_module(Perceptron().eval(), mesh(), {"up": ColwiseParallel(), "down": RowwiseParallel()})


def normed_perceptron(seed: int = 0) -> Perceptron:
    """Sequence parallel: norm and residual have a part of the sequence on each rank."""
    torch.manual_seed(seed)
    plan = {
        "norm": SequenceParallel(use_local_output=False),
        "up": ColwiseParallel(input_layouts=Shard(1)),
        "down": RowwiseParallel(output_layouts=Shard(1)),
    }
    return parallelize_module(Perceptron().eval(), mesh(), plan)


def batch(size: int = 2, length: int = 8, seed: int = 1) -> torch.Tensor:
    """Inputs that are the same on every rank."""
    return torch.randn(size, length, WIDTH, generator=torch.Generator().manual_seed(seed))


class Exchange(nn.Module):
    """Every functional collective that PyTorch has, between a few layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("share", torch.arange(WIDTH, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        group, size = distributed.group.WORLD, distributed.get_world_size()
        x = funcol.all_reduce(self.layer(x).relu(), "sum", group)
        gathered = funcol.all_gather_tensor(x.sigmoid(), 0, group)
        scattered = funcol.reduce_scatter_tensor(gathered * 2, "sum", 0, group)
        turned = funcol.all_to_all_single(scattered.reshape(size, -1) + 1, None, None, group)
        # Of a constant, and nothing that is known while the model is compiled.
        total = funcol.all_reduce(self.share, "max", group)
        return funcol.broadcast(self.layer(turned.reshape(x.shape)).tanh() + total, 0, group)
