"""Host time of a call: the module against raw ``execute_async_v3`` on the same execution context.

Needs a GPU::

    python -m benchmarks.call_overhead [--calls 200] [--rounds 30] [--json FILE]

Each case runs the module and the raw loop in turn, in the same process and on the same context,
and prints the median host time per call in microseconds.  The raw loop of a case with changing
shapes sets shapes and addresses with TensorRT's calls, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy
import torch

from engine.logger import capturing_logger
from engine.runtime import TorchTensorRTModule, TRTEngine
from engine.tensorrt import load


@dataclass
class Case:
    """One row of the result; times are microseconds per call."""

    name: str
    raw: float
    bound: float
    module: float

    @property
    def row(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "over_raw": self.module - self.raw,
            "ratio": self.module / self.raw,
            "over_bound": self.module - self.bound,
        }


def convolution(inputs: int = 1) -> TorchTensorRTModule:
    """A 3x3 convolution of [n, 3, 32, 32] in float16, n from 1 to 16, of the sum of ``inputs`` tensors."""
    trt = load()
    logger = capturing_logger()
    builder = trt.Builder(logger)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    names = [f"x{index}" for index in range(inputs)]
    tensors = [network.add_input(name, trt.float16, (-1, 3, 32, 32)) for name in names]
    total = tensors[0]
    for tensor in tensors[1:]:
        total = network.add_elementwise(total, tensor, trt.ElementWiseOperation.SUM).get_output(0)
    weights = numpy.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(numpy.float16)
    layer = network.add_convolution_nd(
        total, 8, (3, 3), trt.Weights(weights), trt.Weights(numpy.zeros(8, numpy.float16))
    )
    layer.get_output(0).name = "out"
    network.mark_output(layer.get_output(0))
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for name in names:
        profile.set_shape(name, (1, 3, 32, 32), (4, 3, 32, 32), (16, 3, 32, 32))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise SystemExit("the network does not build: " + "; ".join(logger.errors()))
    return TorchTensorRTModule(bytes(plan), names, ["out"], runtime="python")


def measure(runs: Sequence[Callable[[], None]], calls: int, rounds: int) -> list[float]:
    """Median host microseconds of each of ``runs``, which take turns; the GPU is idle when a turn starts."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds + 3):
        for run, found in zip(runs, times, strict=True):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(calls):
                run()
            spent = time.perf_counter() - start
            if turn >= 3:
                found.append(spent / calls * 1e6)
    return [statistics.median(found) for found in times]


def case(
    name: str, module: TorchTensorRTModule, batches: Sequence[Sequence[torch.Tensor]], calls: int, rounds: int
) -> Case:
    """Measure calls with each of ``batches`` in turn; times are per call."""
    for _ in range(3):
        for batch in batches:
            module(*batch)
    engine = module._engines[torch.cuda.current_device()]
    lane = engine._pool.take(torch.cuda.current_stream().cuda_stream, None)
    engine._pool.give(lane)
    raw, bound = raw_runs(engine, lane, batches)

    def call() -> None:
        for batch in batches:
            module(*batch)

    # As many launches per turn in every case: a full launch queue would make the host wait.
    times = measure((raw, bound, call), max(1, calls // len(batches)), rounds)
    return Case(name, *(spent / len(batches) for spent in times))


def raw_runs(
    engine: TRTEngine, lane: Any, batches: Sequence[Sequence[torch.Tensor]]
) -> tuple[Callable[[], None], Callable[[], None]]:
    """The least a call can cost, and the least with fresh outputs and every shape and address set."""
    context = lane.context
    stream = torch.cuda.current_stream().cuda_stream
    settings = []
    for batch in batches:
        shapes = [tuple(tensor.shape) for tensor in batch]
        output = [(shape, engine.outputs[i].dtype) for i, shape in enumerate(engine.output_shapes(shapes))]
        settings.append((list(zip([binding.name for binding in engine.inputs], shapes, batch, strict=True)), output))
    # Addresses that raw runs write to: set once where shapes never change.
    scratch = [[torch.empty(shape, dtype=dtype, device="cuda") for shape, dtype in outputs] for _, outputs in settings]

    def set_all(index: int, outputs: Sequence[torch.Tensor]) -> None:
        for name, shape, tensor in settings[index][0]:
            context.set_input_shape(name, shape)
            context.set_tensor_address(name, tensor.data_ptr())
        for binding, tensor in zip(engine.outputs, outputs, strict=True):
            context.set_tensor_address(binding.name, tensor.data_ptr())

    def raw() -> None:
        for index in range(len(settings)):
            if len(settings) > 1 or lane.plan is not None:
                lane.forget()
                set_all(index, scratch[index])
            context.execute_async_v3(stream)

    def bound() -> None:
        lane.forget()
        for index, (_, outputs) in enumerate(settings):
            set_all(index, [torch.empty(shape, dtype=dtype, device="cuda") for shape, dtype in outputs])
            context.execute_async_v3(stream)

    return raw, bound


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200, help="calls between two synchronisations")
    parser.add_argument("--rounds", type=int, default=30, help="turns to take the median of")
    parser.add_argument("--json", help="write the rows to this file")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("call_overhead needs an NVIDIA GPU", file=sys.stderr)
        return 1

    def images(n: int, count: int = 1) -> list[torch.Tensor]:
        return [torch.randn(n, 3, 32, 32, device="cuda", dtype=torch.float16) for _ in range(count)]

    one, four = convolution(), convolution(4)
    cases = []
    for where, stream in (("side stream", torch.cuda.Stream()), ("default stream", torch.cuda.default_stream())):
        with torch.cuda.stream(stream), torch.no_grad():
            runs = (
                ("unchanged shapes", one, [images(4)]),
                ("unchanged shapes, 4 inputs", four, [images(4, 4)]),
                ("two inputs in turn", one, [images(4), images(4)]),
                ("two shapes in turn", one, [images(4), images(8)]),
                ("four shapes in turn", one, [images(n) for n in (1, 2, 4, 8)]),
            )
            for name, module, batches in runs:
                cases.append(case(f"{name}, {where}", module, batches, options.calls, options.rounds))
    print(f"{torch.cuda.get_device_name()}, {load().__name__} {load().__version__}, torch {torch.__version__}")
    print(f"{'host us per call':44} {'raw':>7} {'bound':>7} {'module':>7} {'over raw':>9} {'ratio':>6}")
    for entry in cases:
        row = entry.row
        print(
            f"{entry.name:44} {entry.raw:7.2f} {entry.bound:7.2f} {entry.module:7.2f} "
            f"{row['over_raw']:9.2f} {row['ratio']:6.2f}"
        )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump([entry.row for entry in cases], file, indent=2)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
