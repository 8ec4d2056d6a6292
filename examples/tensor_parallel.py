"""Tensor parallelism: a transformer whose layers are sharded over several ranks, each with engines of its own.

``torchrun --nproc-per-node 2 examples/tensor_parallel.py`` runs anywhere: over NCCL where every rank has a GPU, else
over gloo with the engines' networks interpreted, which is slow: the default model is small.  ``--save FOLDER`` writes a
file for each rank and loads them again; ``--backend`` goes through ``torch.compile``.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
import torch.nn.functional as F
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import engine
import engine.torch_compile.backend


class Attention(nn.Module):
    """Causal attention; each rank has some of the heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.size = width // heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take and give [batch, length, width]."""
        batch, length, _ = x.shape
        q, k, v = (
            layer(x).view(batch, length, -1, self.size).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A layer of a transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention = Attention(width, heads)
        self.gate, self.up = nn.Linear(width, 4 * width, bias=False), nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take and give [batch, length, width]."""
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


# Products of a column-parallel layer go into a row-parallel one, whose sums are reduced over all ranks.
PLAN = {
    **{f"attention.{name}": ColwiseParallel for name in ("query", "key", "value")},
    "attention.out": RowwiseParallel,
    "gate": ColwiseParallel,
    "up": ColwiseParallel,
    "down": RowwiseParallel,
}


def main() -> None:
    """Shard a model, compile each rank's part, and compare it with PyTorch's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--length", type=int, default=16, help="of the sequence")
    parser.add_argument("--steps", type=int, default=10, help="calls that are timed")
    parser.add_argument("--backend", action="store_true", help='compile by torch.compile(backend="engine")')
    parser.add_argument("--save", metavar="FOLDER", help="save the module, and load it again")
    options = parser.parse_args()

    local = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.cuda.device_count() > local
    if on_gpu:
        torch.cuda.set_device(local)
    device, dtype = (torch.device("cuda", local), torch.bfloat16) if on_gpu else (torch.device("cpu"), torch.float32)
    distributed.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    if options.heads % ranks:
        parser.error(f"{ranks} ranks do not divide {options.heads} heads")
    mesh = init_device_mesh(device.type, (ranks,), mesh_dim_names=("tp",))

    torch.manual_seed(0)  # the same weights on every rank, each of which keeps its shard
    model = (
        nn.Sequential(*(Layer(options.width, options.heads) for _ in range(options.layers))).eval().to(device, dtype)
    )
    for layer in model:
        parallelize_module(layer, mesh, {name: style() for name, style in PLAN.items()})
    x = torch.randn(1, options.length, options.width, device=device, dtype=dtype)

    with torch.no_grad():
        wanted = model(x)
        if options.backend:
            module = torch.compile(model, backend="engine", options={"min_block_size": 1})
        else:
            module = engine.compile(model, (x,), min_block_size=1)
            if rank == 0:
                print(module.report)
        if options.save and not options.backend:
            engine.save(module, options.save, program=not on_gpu)
            module = engine.load(options.save)
        found = module(x)
        torch.testing.assert_close(found, wanted, **({"rtol": 5e-2, "atol": 5e-2} if on_gpu else {}))
        eager, compiled = _milliseconds(model, x, options.steps), _milliseconds(module, x, options.steps)
    if rank == 0:
        print(f"{ranks} ranks, largest difference {float((found - wanted).abs().max()):.1e}")
        print(f"one call: {eager:.2f} ms in PyTorch, {compiled:.2f} ms compiled")
    distributed.destroy_process_group()


def _milliseconds(module: nn.Module, x: torch.Tensor, steps: int) -> float:
    """The time of one call."""
    for _ in range(3):
        module(x)
    _wait(x)
    started = time.perf_counter()
    for _ in range(steps):
        module(x)
    _wait(x)
    return 1e3 * (time.perf_counter() - started) / steps


def _wait(x: torch.Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


if __name__ == "__main__":
    main()
