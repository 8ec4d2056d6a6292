"""One model through one backend, in a process of its own: a row of the table as JSON on the last line.

It compiles as soon as it starts, and is timed while no process of the same lock compiles or is timed.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from contextlib import nullcontext
from typing import Any

import torch

from benchmarks.performance import backends, models, timing
from tests.models import declare_torchvision_operators


def main(arguments: list[str]) -> int:
    declare_torchvision_operators()
    job = json.loads(arguments[0])
    row: dict[str, Any] = {name: job[name] for name in ("model", "backend", "dtype")}
    stage = ["begin"]
    try:
        measure(job, row, stage)
    except BaseException as error:
        traceback.print_exc()
        row["error_text"] = f"{stage[0]}: {type(error).__name__}: {str(error).strip()}"[:500]
    print("ROW " + json.dumps(row), flush=True)
    return 0


def measure(job: dict[str, Any], row: dict[str, Any], stage: list[str]) -> None:
    """Compile and time; what is known so far is in the row where something fails."""
    with timing.compiling(job["lock"]):
        compiled = compile(job, row, stage)
    stage[0] = "timing"
    with torch.no_grad(), timing.alone(job["lock"]):
        row["ms"], row["p99"] = timing.latency(compiled.call, job["budget"])
        if job["device"] != "cuda" or compiled.why_no_graph:
            row["graphs"] = compiled.why_no_graph
            return
        stage[0] = "CUDA graphs"
        with compiled.graphs() if compiled.graphs is not None else nullcontext():
            call = compiled.call
            if compiled.graphs is None and not compiled.is_graph:
                call = timing.recorded(call)
            row["graph_ms"], row["graph_p99"] = timing.latency(call, job["budget"])


def compile(job: dict[str, Any], row: dict[str, Any], stage: list[str]) -> backends.Compiled:
    """Compile and run once: all but latencies."""
    device, dtype = job["device"], getattr(torch, job["dtype"])
    stage[0] = "model"
    model, args = models.build(job["model"], job["small"])
    reference = _run(model.to(device, torch.float32), tuple(arg.to(device) for arg in args))
    model = model.to(device, dtype)
    args = tuple(arg.to(device, dtype if arg.is_floating_point() else None) for arg in args)
    row["weights"] = weights = sum(p.numel() * p.element_size() for p in model.parameters())
    row["eager_error"] = _error(_run(model, args), reference)
    timing.wait()
    stage[0] = "compile"
    start = time.perf_counter()
    with torch.no_grad(), timing.peak_memory() as peak:
        compiled = backends.BACKENDS[job["backend"]](model, args, peak.restart)
        stage[0] = "first call"
        with backends.timed(compiled.stages, "first"):
            result = compiled.call()
            timing.wait()
    took = time.perf_counter() - start
    row |= {"stages": compiled.stages, "total": took - compiled.stages.get("export", 0.0), **compiled.facts}
    row["host"] = peak.host / weights
    if device == "cuda" and job["alone"]:
        row["device"] = peak.device / weights
    row["error"] = _error(result, reference)
    return compiled


def _run(model: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> torch.Tensor:
    with torch.no_grad():
        return model(*args).float().cpu()


def _error(result: torch.Tensor, reference: torch.Tensor) -> float | None:
    """Largest difference by the largest value of the reference; None where that is nothing to compare with."""
    scale = float(reference.abs().max())
    found = float((result.detach().float().cpu() - reference).abs().max()) / scale if scale else float("nan")
    return found if found == found else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
