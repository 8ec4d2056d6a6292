"""Host memory while a model is compiled, over what the process had with the exported program, in weights of the model.

    python -m benchmarks.build_memory [--mebibytes 400] [--dtype float32,float16] [--layers linear,conv] [--save]

Engines are built and not run, so that it works without a GPU.  A tiny model is compiled first: what this package and
TensorRT take by themselves is not in the numbers.  Each case has a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import engine
from benchmarks.performance.timing import host_bytes, peak_memory


class Stack(nn.Module):
    """Layers one after the other."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return x


def model(kind: str, dtype: torch.dtype, size: int) -> tuple[nn.Module, torch.Tensor]:
    """A model of about ``size`` bytes of weights, and its input."""
    width = 4096 if kind == "linear" else 1024
    if size < 1 << 20:
        width = 16
    one = width * width * (1 if kind == "linear" else 9) * dtype.itemsize
    number = max(1, round(size / one))
    if kind == "linear":
        stack, x = [nn.Linear(width, width, bias=False) for _ in range(number)], torch.randn(2, width)
    else:
        stack = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(number)]
        x = torch.randn(1, width, 4, 4)
    return Stack(list(stack)).eval().to(dtype), x.to(dtype)


def measure(kind: str, dtype: str, size: int, save: bool) -> tuple[int, int, int]:
    """Bytes of the weights; the peak while compiling, and what is held afterwards, beyond the exported program."""
    small, x = model(kind, getattr(torch, dtype), 0)
    engine.compile(small, (x,), runtime="python")
    module, x = model(kind, getattr(torch, dtype), size)
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    program = torch.export.export(module, (x,))
    gc.collect()
    before = host_bytes()
    with peak_memory() as peak:
        compiled = engine.compile(program, runtime="python")
        held = host_bytes() - before
        if save:
            with tempfile.TemporaryDirectory() as folder:
                engine.save(compiled, Path(folder) / "model.pt2")
    return weights, peak.host, held


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, default=400)
    parser.add_argument("--dtype", default="float32,float16")
    parser.add_argument("--layers", default="linear,conv")
    parser.add_argument("--save", action="store_true", help="write the module to a file as well")
    options = parser.parse_args(arguments)
    print(f"{'layers':8} {'dtype':9} {'MiB':>6} {'peak':>6} {'held':>6}   peak and held in weights")
    cases: list[Any] = [(kind, dtype) for kind in options.layers.split(",") for dtype in options.dtype.split(",")]
    for kind, dtype in cases:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            weights, peak, held = pool.apply(measure, (kind, dtype, options.mebibytes << 20, options.save))
        print(f"{kind:8} {dtype:9} {weights / 2**20:6.0f} {peak / weights:6.2f} {held / weights:6.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
