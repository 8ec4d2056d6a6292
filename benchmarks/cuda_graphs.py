"""Host time of replaying a whole compiled module, against a bare ``torch.cuda.CUDAGraph.replay()``.

Needs a GPU::

    python -m benchmarks.cuda_graphs [--calls 200] [--rounds 30] [--json FILE]

The module has three engines and PyTorch between them.  Bare is ``replay()`` of the graph that the module itself
recorded.  Static results lie in the graph's memory (``use_pre_allocated_outputs``); fresh ones, the default, are
copied from it.  Moved inputs lie elsewhere at each call, so they are copied to the graph's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

import engine
from benchmarks.call_overhead import measure
from engine.runtime import enable_cudagraphs, enable_pre_allocated_outputs


class Model(nn.Module):
    """Convolutions in three parts, which ``sin``, kept in PyTorch, comes between; [n, 3, 64, 64] to [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2), nn.ReLU())
        self.third = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(torch.sin(self.second(torch.sin(self.first(x)))))


def repeated(call: Callable[[Any], Any], batches: Sequence[torch.Tensor]) -> Callable[[], None]:
    def run() -> None:
        for batch in batches:
            call(batch)

    return run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200, help="calls between two synchronisations")
    parser.add_argument("--rounds", type=int, default=30, help="turns to take the median of")
    parser.add_argument("--json", help="write the rows to this file")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("cuda_graphs needs an NVIDIA GPU", file=sys.stderr)
        return 1
    torch.manual_seed(0)
    model = Model().cuda().half().eval()
    x = torch.randn(8, 3, 64, 64, device="cuda", dtype=torch.float16)
    compiled = engine.compile(model, [x], min_block_size=1, torch_executed_ops=["aten.sin"])
    engines = [name for name, _ in compiled.graph_module.named_children() if name.startswith("engine")]
    rows: dict[str, float] = {}
    with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
        expected = model(x)
        rows["eager PyTorch"], rows["engines, no graph"] = measure(
            [repeated(model, [x]), repeated(compiled, [x])], options.calls, options.rounds
        )
        with enable_pre_allocated_outputs(compiled), enable_cudagraphs(compiled):
            for _ in range(3):
                torch.testing.assert_close(compiled(x), expected, rtol=2e-2, atol=2e-2)
            (recorded,) = compiled.cuda_graphs._graphs.values()
            graph = recorded.graph
            replays = measure([lambda: graph.replay(), repeated(compiled, [x])], options.calls, options.rounds)
            rows["bare replay"], rows["replay, static results"] = replays
        two = [x, x.clone()]
        with enable_cudagraphs(compiled):
            (rows["replay, fresh results"],) = measure([repeated(compiled, [x])], options.calls, options.rounds)
            (spent,) = measure([repeated(compiled, two)], options.calls // 2, options.rounds)
            rows["replay, fresh results, moved inputs"] = spent / 2
        with enable_cudagraphs(compiled, per_engine=True):
            (rows["one graph per engine"],) = measure([repeated(compiled, [x])], options.calls, options.rounds)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {len(engines)} engines")
    print(f"{'host us per call':40} {'time':>8} {'over bare':>10}")
    for name, spent in rows.items():
        print(f"{name:40} {spent:8.2f} {spent - rows['bare replay']:10.2f}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=2)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
