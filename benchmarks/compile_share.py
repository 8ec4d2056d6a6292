"""Our share of compile time: everything but torch.export, TensorRT's build, and a run of the model in PyTorch where its
graph has to be tried at sizes of 0 or 1; for every model of the list.

    python -m benchmarks.compile_share [--size full|small] [--models resnet50,...] [--dynamic batch|extent|none]

The process is warm: one small model is compiled first.  Networks are made, but not built, so that no GPU and little
memory is needed; what the module around the engine costs (``assemble``, some hundredths of a second) is not in it.
Seconds are of this process's CPU; the last column is by the clock.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import engine
from engine.conversion import emit_network
from engine.pipeline.compilation import Compilation
from engine.process.collector import collector_held_back
from engine.report import Report, Timings
from tests.models import ZOO, Built

LIMIT = 2.0  # seconds that our part may take


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["small", "full"], default="full")
    parser.add_argument("--models", default=",".join(ZOO))
    parser.add_argument("--dynamic", choices=["batch", "extent", "none"], default="batch")
    options = parser.parse_args()
    seconds: dict[str, float] = {}  # CPU seconds per phase
    foreign: list[float] = []  # seconds by the clock of phases that are not ours
    with _cpu_time(seconds, foreign):
        _lower(ZOO["BertModel"].build("small"))
        heads = " ".join(f"{head:>7}" for head in ("rewrite", "fold", "tile", "emit", "ours", "clock"))
        print(f"{'model':32} {'nodes':>6} {heads}")
        slow = 0
        for name in options.models.split(","):
            dynamic: Any = {"batch": True, "extent": "extent", "none": False}[options.dynamic]
            built = ZOO[name].build(options.size, dynamic=dynamic)
            gc.collect()
            seconds.clear()
            foreign.clear()
            start = time.perf_counter()
            report = _lower(built)
            clock = time.perf_counter() - start - sum(foreign)
            ours = sum(value for phase, value in seconds.items() if phase not in Timings.FOREIGN)
            slow += ours > LIMIT
            phases = " ".join(f"{seconds.get(phase, 0.0):7.2f}" for phase in ("rewrite", "fold", "tile", "emit"))
            mark = "" if report.coverage == 1.0 else f"  coverage {report.coverage:.1%}"
            print(f"{name:32} {report.nodes:6d} {phases} {ours:7.2f} {clock:7.2f}{mark}", flush=True)
            del built
    print(f"{slow} models over {LIMIT:g} s")
    return 0


def _lower(built: Built) -> Report:
    """Everything up to the networks."""
    settings = engine.CompilationSettings()
    compilation = Compilation.start(built.model, built.args, built.kwargs, built.dynamic_shapes, (), settings)
    compilation.place()
    for segment in compilation.partition.engines:
        with compilation.report.timings.phase("emit"), collector_held_back():
            emit_network(
                compilation.mirror,
                segment.tiles,
                segment.inputs,
                segment.outputs,
                compilation.captured.ranges,
                settings,
                name=segment.name,
                profiles=compilation.captured.profiles,
            )
    return compilation.report


@contextmanager
def _cpu_time(seconds: dict[str, float], foreign: list[float]) -> Iterator[None]:
    """Add up the CPU time of every phase; other processes on the machine do not count."""
    original = Timings.phase
    inside = 0.0

    @contextmanager
    def phase(self: Timings, name: str) -> Iterator[None]:
        nonlocal inside
        before, inside = inside, 0.0
        start, clock = time.process_time(), time.perf_counter()
        try:
            with original(self, name):
                yield
        finally:
            spent = time.process_time() - start
            seconds[name] = seconds.get(name, 0.0) + spent - inside
            inside = before + spent
            if name in Timings.FOREIGN:
                foreign.append(time.perf_counter() - clock)

    Timings.phase = phase  # type: ignore[method-assign]
    try:
        yield
    finally:
        Timings.phase = original  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main())
