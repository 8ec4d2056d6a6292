"""Device and host memory over many calls with changing shapes: flat after a warm-up.

Needs a GPU::

    python -m benchmarks.memory [--calls 10000] [--runtime auto] [--cases plain,graphs] [--json FILE]

Device memory is what the driver says is used; host memory is the resident set of the process.  Every case has an
engine of its own.  The warm-up is 1,000 calls with 64 shapes in random order and, as TensorRT-RTX compiles kernels for
the shapes of calls in the background by default, a pause; then memory is read five times, at 10, 25, 50, 75 and 100 %
of the calls.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from benchmarks.threads import network
from engine.errors import EngineError
from engine.runtime import TorchTensorRTModule, enable_cudagraphs, enable_pre_allocated_outputs, runtime_config

MARKS = (0.1, 0.25, 0.5, 0.75, 1.0)


def host_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def device_bytes() -> int:
    free, total = torch.cuda.mem_get_info()
    return total - free


def memory(module: Any, calls: int, warm_up: int, pause: float) -> dict[str, list[float]]:
    """MiB of device and host memory at each of the marks, and how many contexts there were."""
    draw = random.Random(0)
    inputs = {n: torch.randn(n, 256, device="cuda") for n in range(1, 65)}
    marks = [int(calls * mark) for mark in MARKS]
    found: dict[str, list[float]] = {"device": [], "host": [], "contexts": []}
    for _ in range(warm_up):
        module(inputs[draw.randint(1, 64)])
    torch.cuda.synchronize()
    time.sleep(pause)
    for call in range(calls + 1):
        if call in marks:
            torch.cuda.synchronize()
            gc.collect()
            found["device"].append(device_bytes() / (1 << 20))
            found["host"].append(host_bytes() / (1 << 20))
            pool = getattr(module._engines[torch.cuda.current_device()], "_pool", None)
            found["contexts"].append(0 if pool is None else len(pool) + pool.captured)
        module(inputs[draw.randint(1, 64)])
    return found


def modes(folder: str) -> dict[str, Callable[[Any], Any]]:
    """How each case runs a module."""

    def specialized(strategy: str) -> Callable[[Any], Any]:
        return lambda module: runtime_config(module, dynamic_shapes_kernel_specialization_strategy=strategy)

    return {
        "plain": lambda module: nullcontext(),
        "eager": specialized("eager"),
        "none": specialized("none"),
        "cache": lambda module: runtime_config(module, runtime_cache_path=folder),
        "static": enable_pre_allocated_outputs,
        "graphs": lambda module: enable_cudagraphs(module, cache_size=64),
        # Nearly every call is recorded anew, which is slow.
        "graphs8": lambda module: enable_cudagraphs(module, cache_size=8),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10000)
    parser.add_argument("--warm-up", type=int, default=1000, help="calls before the first of them")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds after the warm-up")
    parser.add_argument("--runtime", default="auto", choices=("auto", "python", "cpp"))
    parser.add_argument("--cases", default="plain,eager,none,cache,static,graphs,graphs8", help="what to measure")
    parser.add_argument("--json", help="write the rows to this file")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("memory needs an NVIDIA GPU", file=sys.stderr)
        return 1
    plan, _ = network()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.cases.split(","):
            module = TorchTensorRTModule(plan, ["x"], ["out"], runtime=options.runtime)
            module.load()
            few = name == "graphs8"
            calls = max(options.calls // 50, 100) if few else options.calls
            try:
                with modes(folder)[name](module):
                    found = memory(module, calls, min(options.warm_up, calls), options.pause)
            except EngineError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            rows.append({"case": name, "calls": calls, "runtime": module.runtime, **found})
            del module
            gc.collect()
    print(f"{torch.cuda.get_device_name()}, runtime {options.runtime}; MiB at {', '.join(f'{m:.0%}' for m in MARKS)}")
    for row in rows:
        for what in ("device", "host", "contexts"):
            values: Any = row[what]
            text = " ".join(f"{value:8.1f}" for value in values)
            print(f"{row['case']:8} {row['calls']:6d} {what:8} {text}  grown {values[-1] - values[0]:+8.1f}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=2)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
