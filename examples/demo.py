"""Compile resnet50 and BERT to TensorRT, batch 1 to 8, and show what happened.  Run it with ``make demo``.

Without a GPU the networks run in the interpreter; with one, the engines run and are timed beside eager PyTorch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console

import engine
from engine.report.table import render_report
from tests.models import ZOO

BATCH = 2


def main() -> None:
    """Compile, check and, on a GPU, time both models."""
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    where = torch.cuda.get_device_name() if gpu else "no GPU here: networks run in the interpreter on the CPU"
    console.print(f"PyTorch {torch.__version__}, {where}\n")
    for name in ("resnet50", "BertModel"):
        console.rule(name)
        model, args, kwargs, dynamic_shapes = ZOO[name].build("full", batch=BATCH)
        model, args, kwargs = model.to(device), _moved(args, device), _moved(kwargs, device)
        compiled = engine.compile(model, args, kwargs, dynamic_shapes=dynamic_shapes)
        render_report(compiled.report, console.file)
        with torch.no_grad():
            _compare(console, model(*args, **kwargs), compiled(*args, **kwargs), "engine" if gpu else "interpreter")
            if gpu:
                eager, ours = (_latency(partial(run, *args, **kwargs)) for run in (model, compiled))
                console.print(f"latency: eager {eager:.3f} ms, engine {ours:.3f} ms, {eager / ours:.2f}x")
        console.print()


def _moved(value: object, device: str) -> object:
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), value)


def _compare(console: Console, expected: object, actual: object, runner: str) -> None:
    worst = 0.0
    leaves = zip(torch.utils._pytree.tree_leaves(expected), torch.utils._pytree.tree_leaves(actual), strict=True)
    for want, got in leaves:
        if isinstance(want, torch.Tensor):
            worst = max(worst, ((got - want).abs().max() / want.abs().max()).item())
    console.print(f"largest error of the {runner} against eager: {worst:.2e} of the output's largest magnitude")


def _latency(call: Callable[[], object], repeats: int = 50) -> float:
    """Median milliseconds per call."""
    for _ in range(10):
        call()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return sorted(times)[repeats // 2]


if __name__ == "__main__":
    main()
