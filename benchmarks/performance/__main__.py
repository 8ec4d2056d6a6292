"""The command: see the package."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import benchmarks.performance
from benchmarks.performance import backends, models

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "torch", "tensorrt", "tensorrt_rtx", "torch_tensorrt", "onnx", "onnxscript", "onnxruntime",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13", "triton", "torchvision", "transformers", "diffusers",
)  # fmt: skip
NO_SPEEDS = "Without a GPU networks run in the interpreter: these are no speeds of engines."


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=benchmarks.performance.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpu = torch.cuda.is_available()
    parser.add_argument("--models", default=",".join(models.MODELS))
    parser.add_argument("--backends", help="by default all, on the CPU eager, inductor and engine")
    parser.add_argument("--dtypes", help="by default float16,bfloat16, on the CPU float32")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if gpu else "cpu")
    parser.add_argument("--small", action="store_true", help="small models of the same kinds, to see that it runs")
    parser.add_argument("--at-once", type=int, default=4, help="processes that compile at the same time")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds of timing for each number")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds that one process may take")
    parser.add_argument("--json", type=Path, help="write what was measured to this file, after every row")
    parser.add_argument("--page", type=Path, nargs="+", help="write docs/performance.md from these files")
    options = parser.parse_args(arguments)
    if options.page:
        from benchmarks.performance.page import write_page

        write_page(options.page, ROOT / "docs")
        return 0
    if options.device == "cuda" and not gpu:
        parser.error("there is no GPU here: --device cpu --small shows that it runs")
    on_cpu = options.device == "cpu"
    wanted = (options.backends or ",".join(backends.ON_CPU if on_cpu else backends.BACKENDS)).split(",")
    names = options.models.split(",")
    for kind, given, known in (("model", names, models.MODELS), ("backend", wanted, backends.BACKENDS)):
        for name in given:
            if name not in known:
                parser.error(f"there is no {kind} {name!r}; there are {', '.join(known)}")
    if on_cpu:
        print(NO_SPEEDS)
    dtypes = (options.dtypes or ("float32" if on_cpu else "float16,bfloat16")).split(",")
    found: dict[str, Any] = {
        "machine": machine(options.device),
        "small": options.small,
        "at_once": options.at_once,
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.at_once) as pool:
        jobs = [
            {
                "model": name,
                "backend": backend,
                "dtype": dtype,
                "device": options.device,
                "small": options.small,
                "alone": options.at_once == 1,
                "budget": options.budget,
                "lock": str(Path(folder) / "timing.lock"),
            }
            for dtype in dtypes
            for name in names
            for backend in wanted
        ]
        for row in pool.map(lambda job: run(job, options.timeout), jobs):
            found["rows"].append(row)
            print(line(row), flush=True)
            if options.json:
                options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def run(job: dict[str, Any], timeout: float) -> dict[str, Any]:
    """The row of one job, from a process of its own."""
    row = {name: job[name] for name in ("model", "backend", "dtype")}
    command = [sys.executable, "-m", "benchmarks.performance.worker", json.dumps(job)]
    environment = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", **os.environ}
    if job["device"] == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return {**row, "error_text": f"it took longer than {timeout:g} s"}
    lines = [text for text in done.stdout.splitlines() if text.startswith("ROW ")]
    if lines:
        return dict(json.loads(lines[-1].removeprefix("ROW ")))
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return {**row, "error_text": f"the process ended with {done.returncode}: {last[:300]}"}


def machine(device: str) -> dict[str, Any]:
    """Where, with what, and of which commit."""
    found: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": _git("rev-parse", "HEAD") + ("-changed" if _git("status", "--porcelain", "-uno") else ""),
        "device": "cpu",
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        found |= {"device": torch.cuda.get_device_name(), "capability": f"{major}.{minor}", "cuda": torch.version.cuda}
    return found


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    head = f"{row['model']:26} {row['backend']:15} {row['dtype']:9}"
    if "ms" not in row:
        return f"{head} FAILED {row['error_text']}"
    text = f"{head} total {row['total']:7.2f} s  host {row['host']:5.2f} w  {row['ms']:9.4f} ms p99 {row['p99']:9.4f}"
    if "graph_ms" in row:
        text += f"  graphs {row['graph_ms']:9.4f} ms p99 {row['graph_p99']:9.4f}"
    error = "-" if row["error"] is None else f"{row['error']:.1e}"
    return f"{text}  error {error}" + (f"  FAILED {row['error_text']}" if "error_text" in row else "")


if __name__ == "__main__":
    sys.exit(main())
