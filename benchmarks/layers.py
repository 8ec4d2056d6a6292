"""The layers of our engine beside those of the engine that TensorRT's ONNX parser makes of the same model.

    python -m benchmarks.layers "t5 encoder b8 s128" [--dtype float16] [--rows 25] [--json FILE]

Both are profiled with TensorRT's own profiler, without CUDA graphs, run after run in turn; a layer's time is the median
of its runs.  The sum of the layers is more than a call takes.  Where ours is slower, the layers that differ say which
form of the network to try: the kernels that TensorRT takes depend on the layers that they are made of.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

import engine
from benchmarks.performance import backends, models, timing
from engine.runtime import profiling
from engine.tensorrt import load
from tests.models import declare_torchvision_operators

RUNS = 30


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", choices=models.MODELS, metavar="MODEL", help=", ".join(models.MODELS))
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--small", action="store_true", help="small models of the same kinds")
    parser.add_argument("--rows", type=int, default=25)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--lock", help="a file: processes that share it compile at once and are timed one by one")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        parser.error("there is no GPU here, and the interpreter has no layers to time")
    declare_torchvision_operators()
    found = {}
    for name in options.models:
        found[name] = layers(name, getattr(torch, options.dtype), options.small, options.lock)
        show(name, found[name], options.rows)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


Layers = dict[str, tuple[float, str]]
"""Layer -> milliseconds of a run, and the rules that it comes from."""


def layers(name: str, dtype: torch.dtype, small: bool, lock: str | None = None) -> dict[str, Layers]:
    """The layers of both engines."""
    model, args = models.build(name, small)
    model = model.cuda().to(dtype)
    args = tuple(arg.cuda().to(dtype if arg.is_floating_point() else arg.dtype) for arg in args)
    with torch.no_grad(), timing.compiling(lock):
        ours = engine.compile(torch.export.export(model, args))
        theirs = backends.onnx_engine(model, args, lambda: None, {})
        tensors = [value.to(kind.dtype).contiguous() for value, kind in zip(args, theirs.inputs, strict=True)]
        context, bare = backends.bare_call(theirs, tensors)
    with torch.no_grad(), timing.alone(lock):
        for _ in range(5):
            ours(*args)
            bare()
        context.profiler = profiler = _profiler()
        with profiling(ours) as profile:
            for _ in range(RUNS):
                ours(*args)
                bare()
                torch.cuda.synchronize()
    own: dict[str, list[float]] = defaultdict(list)
    rules: dict[str, str] = {}
    for each in profile.times:
        own[each.layer].append(each.milliseconds)
        rules[each.layer] = ", ".join(each.rules)
    return {
        "engine": {layer: (statistics.median(times), rules[layer]) for layer, times in own.items()},
        "onnx": {layer: (statistics.median(times), "") for layer, times in profiler.times.items()},
    }


def show(name: str, found: dict[str, Layers], rows: int) -> None:
    for backend, times in found.items():
        whole = sum(time for time, _ in times.values())
        print(f"{name}, {backend}: {whole:.4f} ms in {len(times)} layers")
        for layer, (time, rules) in sorted(times.items(), key=lambda item: -item[1][0])[:rows]:
            print(f"  {time * 1e3:8.1f} us {time / whole:6.1%}  {layer[:110]}{f'  [{rules}]' if rules else ''}")


def _profiler() -> Any:
    trt = load()

    class LayerTimes(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: dict[str, list[float]] = defaultdict(list)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times[layer_name].append(float(ms))

    return LayerTimes()


if __name__ == "__main__":
    sys.exit(main())
