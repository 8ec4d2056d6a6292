"""Refit against compiling again, and the engine cache against building.

    python -m benchmarks.refit [--size full|small] [--models resnet50,BertModel] [--dtype float16]

On a GPU real engines are refitted, and calls of a refittable engine are timed beside those of one whose weights never
change.  Without a GPU networks are refitted for the interpreter, which says what recomputing the weights costs.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

# As a script, `python benchmarks/refit.py`, the folder above is not searched.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import engine
from engine.tensorrt import capabilities
from tests.models import ZOO

GPU = torch.cuda.is_available()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["small", "full"], default="full")
    parser.add_argument("--models", default="resnet50,BertModel")
    parser.add_argument("--dtype", default="float16" if GPU else "float32")
    options = parser.parse_args()
    if not GPU:
        print("no GPU: networks are refitted for the interpreter, engines are not")
    for name in options.models.split(","):
        measure(name, options.size, getattr(torch, options.dtype))
    return 0


def measure(name: str, size: Any, dtype: torch.dtype) -> None:
    """Compile, refit and compile from the cache; print seconds and ratios."""
    device = "cuda" if GPU else "cpu"
    built = ZOO[name].build(size, dynamic=False)
    old = built.model.to(device, dtype)
    new = other_weights(old)

    def moved(value: torch.Tensor) -> torch.Tensor:
        return value.to(device, dtype if value.is_floating_point() else None)

    args, kwargs = pytree.tree_map_only(torch.Tensor, moved, (built.args, built.kwargs))

    def compile(model: torch.nn.Module, **settings: Any) -> Any:
        runtime = "python" if GPU else "interpreter"
        return engine.compile(model, args, kwargs, runtime=runtime, **settings)

    compile(old)  # imports, rules, kernels of PyTorch
    fixed, seconds_fixed = timed(lambda: compile(old))
    compiled, seconds = timed(lambda: compile(old, immutable_weights=False))
    state = new.state_dict()
    refitted, refit_seconds = timed(lambda: engine.refit(compiled, state))
    print(f"{name} {size} {str(dtype).removeprefix('torch.')}, {parameters(old) / 1e6:.1f} M parameters")
    print(f"  compile                      {seconds_fixed:7.2f} s")
    print(f"  compile, refittable          {seconds:7.2f} s")
    print(f"  refit                        {refit_seconds:7.2f} s   {seconds / refit_seconds:.1f} times faster")
    with tempfile.TemporaryDirectory() as folder:
        cached = {"cache_built_engines": True, "reuse_cached_engines": True, "engine_cache_dir": folder}
        compile(old, **cached)
        hit, hit_seconds = timed(lambda: compile(old, **cached))
        how = hit.report.segments[0].cache
        looked = hit.report.timings.phases["cache"]
        print(f"  compile with a kept engine   {hit_seconds:7.2f} s   ({how}; hashing and reading {looked:.2f} s)")
        if GPU and not capabilities().rtx:
            refittable = {**cached, "immutable_weights": False}
            compile(old, **refittable)
            hit, hit_seconds = timed(lambda: compile(new, **refittable))
            print(f"  the same, other weights      {hit_seconds:7.2f} s   ({hit.report.segments[0].cache})")
    print(f"  error of the refitted model  {error(refitted, new, args, kwargs):.1e} of the largest value of eager")
    if GPU:
        fresh = compile(new)
        print(f"  error of a new engine        {error(fresh, new, args, kwargs):.1e}")
        ours, theirs = latency(refitted, args, kwargs), latency(fixed, args, kwargs)
        print(f"  call, refittable             {ours:7.3f} ms  {ours / theirs:.2f} times one whose weights are fixed")


def other_weights(model: torch.nn.Module) -> torch.nn.Module:
    """The same model with other weights, of the same magnitudes."""
    other = copy.deepcopy(model)
    generator = torch.Generator(next(other.parameters()).device).manual_seed(1)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(torch.empty_like(tensor).uniform_(0.8, 1.2, generator=generator))
    return other


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    if GPU:
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = function()
    if GPU:
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def error(compiled: Any, model: Any, args: Any, kwargs: Any) -> float:
    """The largest difference of two calls, in parts of the largest magnitude."""
    with torch.no_grad():
        pairs = zip(
            pytree.tree_leaves(compiled(*args, **kwargs)), pytree.tree_leaves(model(*args, **kwargs)), strict=True
        )
        return max(
            float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max())
            for ours, theirs in pairs
            if isinstance(theirs, torch.Tensor) and theirs.is_floating_point()
        )


def latency(compiled: Any, args: Any, kwargs: Any, calls: int = 50) -> float:
    """Milliseconds of a call, back to back."""
    for _ in range(10):
        compiled(*args, **kwargs)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        compiled(*args, **kwargs)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls * 1e3


if __name__ == "__main__":
    sys.exit(main())
