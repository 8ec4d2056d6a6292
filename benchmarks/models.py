"""The model zoo through the compiler: agreement with eager, latency against eager, and our share of compile time.

    python -m benchmarks.models [--size full|small] [--dtype float16,bfloat16] [--models resnet50,...] [--json FILE]

On a GPU the engines run; without one the networks run in the interpreter (``--dtype float32`` is then the default)
and latency is not measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

import engine
from tests.models import ZOO


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = torch.cuda.is_available()
    parser.add_argument("--size", choices=["small", "full"], default="full")
    parser.add_argument("--dtype", default="float16,bfloat16" if gpu else "float32")
    parser.add_argument("--models", default=",".join(ZOO))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.models.split(","):
        for dtype in options.dtype.split(","):
            try:
                row = measure(name, options.size, getattr(torch, dtype), options.batch)
            except Exception as error:
                traceback.print_exc()
                row = {"error": str(error).splitlines()[0][:120]}
            rows.append({"model": name, "dtype": dtype, **row})
            print(_line(rows[-1]), flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1, default=str))
    print("\n" + _HEADER)
    for row in rows:
        print(_line(row))
    return 0


def measure(name: str, size: str, dtype: torch.dtype, batch: int) -> dict[str, Any]:
    """Compile one model in one dtype, compare with eager, and time both."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, args, kwargs, dynamic_shapes = ZOO[name].build(size, batch=batch)
    model = model.to(device, dtype)

    def moved(value: Any) -> Any:
        return value.to(device, dtype if value.is_floating_point() else None)

    args, kwargs = pytree.tree_map_only(torch.Tensor, moved, (args, kwargs))
    start = time.perf_counter()
    compiled = engine.compile(model, args, kwargs, dynamic_shapes=dynamic_shapes)
    seconds = time.perf_counter() - start
    with torch.no_grad():
        error = max(_error(a, b) for a, b in zip(_floats(compiled(*args, **kwargs)), _floats(model(*args, **kwargs)),
                                                 strict=True))  # fmt: skip
        # What the dtype itself costs eager, so that the error of the engine has a scale.
        reference = model.float()
        wide = pytree.tree_map_only(torch.Tensor, lambda t: t.float() if t.is_floating_point() else t, (args, kwargs))
        exact = _floats(reference(*wide[0], **wide[1]))
        model = reference.to(dtype)
        eager_error = max(_error(a, b) for a, b in zip(_floats(model(*args, **kwargs)), exact, strict=True))
        ours_error = max(_error(a, b) for a, b in zip(_floats(compiled(*args, **kwargs)), exact, strict=True))
    report = compiled.report
    row: dict[str, Any] = {
        "coverage": report.coverage,
        "engines": sum(s.backend == "tensorrt" for s in report.segments),
        "error": error,
        "eager_vs_f32": eager_error,
        "engine_vs_f32": ours_error,
        "compile_s": seconds,
        "ours_s": report.timings.own,
        "phases": dict(report.timings.phases),
        "refused": [tuple(refusal) for refusal in report.refusals],
        "fallbacks": [tuple(fallback) for fallback in report.fallbacks],
    }
    if device == "cuda":
        with torch.no_grad():
            row["eager_ms"] = _latency(lambda: model(*args, **kwargs))
            row["engine_ms"] = _latency(lambda: compiled(*args, **kwargs))
    return row


def _floats(outputs: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def _error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference relative to the largest magnitude expected."""
    difference = (actual.float() - expected.float()).abs().max() / expected.float().abs().max().clamp_min(1e-12)
    return float(difference) if difference == difference else float("inf")


def _latency(call: Callable[[], Any], repeats: int = 30) -> float:
    """Median milliseconds per call, of back-to-back calls in groups of ten."""
    for _ in range(5):
        call()
    times = []
    for _ in range(repeats // 10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(10):
            call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 100)
    return statistics.median(times)


_HEADER = (
    f"{'model':22} {'dtype':9} {'cover':>6} {'eng':>3} {'error':>8} {'e-f32':>8} {'t-f32':>8} "
    f"{'eager ms':>9} {'trt ms':>8} {'ratio':>6} {'compile':>8} {'ours':>6} refused"
)


def _line(row: dict[str, Any]) -> str:
    head = f"{row['model']:22} {row['dtype']:9} "
    if "coverage" not in row:
        return head + f"FAILED {row['error']}"
    eager, ours = row.get("eager_ms"), row.get("engine_ms")
    latency = f"{eager:9.3f} {ours:8.3f} {eager / ours:6.2f}" if ours else f"{'-':>9} {'-':>8} {'-':>6}"
    return head + (
        f"{row['coverage']:6.1%} {row['engines']:3d} {row['error']:8.1e} {row['eager_vs_f32']:8.1e} "
        f"{row['engine_vs_f32']:8.1e} {latency} {row['compile_s']:8.2f} {row['ours_s']:6.2f} {len(row['refused'])}"
    )


if __name__ == "__main__":
    sys.exit(main())
