"""Host time of a call: the module, on each path, against raw ``execute_async_v3`` on an execution context.

Needs a GPU::

    python -m benchmarks.call_overhead [--calls 200] [--rounds 30] [--json FILE]

Each case runs the modules and the raw loops in turn, in the same process, and prints the median host
time per call in microseconds.  Raw is ``execute_async_v3`` alone, on a context of the same engine where all
is set: with several shapes, one context for each.  Bound sets every shape and address and allocates the
outputs at each call of one context.  Over raw is what the project adds; ratio is that of the slower path to
raw.  Torch-TensorRT is measured beside it where it can be imported.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy
import torch

from engine.errors import EngineError
from engine.runtime import TorchTensorRTModule, TRTEngine
from engine.tensorrt import load
from engine.tensorrt.logger import capturing_logger


@dataclass
class Case:
    """One row of the result; times are microseconds per call, None for what cannot run here."""

    name: str
    raw: float
    bound: float
    python: float
    cpp: float | None = None
    torch_tensorrt: float | None = None

    @property
    def row(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "python_over_raw": self.python - self.raw,
            "cpp_over_raw": None if self.cpp is None else self.cpp - self.raw,
        }


def convolution(inputs: int = 1) -> Modules:
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
    return Modules(bytes(plan), names)


class Modules:
    """One engine, run in every way that there is on this machine."""

    def __init__(self, plan: bytes, names: list[str]) -> None:
        self.python = TorchTensorRTModule(plan, names, ["out"], runtime="python")
        self.cpp: Any = None
        self.torch_tensorrt: Any = None
        try:
            self.cpp = TorchTensorRTModule(plan, names, ["out"], runtime="cpp")
        except EngineError as error:
            print(f"no C++ path: {error}", file=sys.stderr)
        self.torch_tensorrt = peer(plan, names)

    @property
    def all(self) -> dict[str, Any]:
        """The modules that there are, by the names of `Case`'s fields."""
        found = {"python": self.python, "cpp": self.cpp, "torch_tensorrt": self.torch_tensorrt}
        return {name: module for name, module in found.items() if module is not None}


def peer(plan: bytes, names: list[str]) -> Any:
    """The same engine in Torch-TensorRT's Python runtime; None where it cannot be had."""
    try:
        from torch_tensorrt.dynamo._settings import CompilationSettings
        from torch_tensorrt.dynamo.runtime import PythonTorchTensorRTModule

        module = PythonTorchTensorRTModule(
            plan, names, ["out"], name="peer", settings=CompilationSettings(use_python_runtime=True)
        )
        module.setup_engine()
        return module.eval()
    except Exception as error:
        print(f"no Torch-TensorRT: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
        return None


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


def case(name: str, modules: Modules, batches: Sequence[Sequence[torch.Tensor]], calls: int, rounds: int) -> Case:
    """Measure calls with each of ``batches`` in turn; times are per call."""
    modules.python(*batches[0])
    raw, bound = raw_runs(modules.python._engines[torch.cuda.current_device()], batches)

    def calling(module: Any) -> Callable[[], None]:
        def call() -> None:
            for batch in batches:
                module(*batch)

        return call

    found = modules.all
    # As many launches per turn in every case: a full launch queue would make the host wait.
    runs = [raw, bound, *map(calling, found.values())]
    times = [spent / len(batches) for spent in measure(runs, max(1, calls // len(batches)), rounds)]
    return Case(name, times[0], times[1], **dict(zip(found, times[2:], strict=True)))


def raw_runs(engine: TRTEngine, batches: Sequence[Sequence[torch.Tensor]]) -> tuple[Callable[[], None], ...]:
    """The least that a call can cost, and the least with fresh outputs and every shape and address set."""
    stream = torch.cuda.current_stream().cuda_stream
    settings = []
    for batch in batches:
        shapes = [tuple(tensor.shape) for tensor in batch]
        output = [(shape, engine.outputs[i].dtype) for i, shape in enumerate(engine.output_shapes(shapes))]
        settings.append((list(zip([binding.name for binding in engine.inputs], shapes, batch, strict=True)), output))

    def set_all(context: Any, index: int, outputs: Sequence[torch.Tensor]) -> None:
        for name, shape, tensor in settings[index][0]:
            context.set_input_shape(name, shape)
            context.set_tensor_address(name, tensor.data_ptr())
        for binding, tensor in zip(engine.outputs, outputs, strict=True):
            context.set_tensor_address(binding.name, tensor.data_ptr())

    def outputs_of(index: int) -> list[torch.Tensor]:
        return [torch.empty(shape, dtype=dtype, device="cuda") for shape, dtype in settings[index][1]]

    shapes_differ = len({tuple(tensor.shape for tensor in batch) for batch in batches}) > 1
    contexts = [engine.trt_engine.create_execution_context() for _ in (batches if shapes_differ else batches[:1])]
    kept = [outputs_of(index) for index in range(len(contexts))]
    for index, context in enumerate(contexts):
        set_all(context, index, kept[index])
    executes = [contexts[index % len(contexts)].execute_async_v3 for index in range(len(batches))]

    def raw() -> None:
        for execute in executes:
            execute(stream)

    alone = engine.trt_engine.create_execution_context()

    def bound(kept: Any = kept) -> None:
        for index in range(len(settings)):
            set_all(alone, index, outputs_of(index))
            alone.execute_async_v3(stream)

    return raw, bound


def shown(time: float | None) -> str:
    return "     -" if time is None else f"{time:6.2f}"


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

    with contextlib.suppress(Exception):
        # First, since it ends the process where its class is registered already; `peer` says why it cannot be had.
        importlib.import_module("torch_tensorrt")
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
    print(
        f"{'host us per call':42} {'raw':>6} {'bound':>6} | {'python':>6} {'over':>6} | {'cpp':>6} {'over':>6} | peer"
    )
    for entry in cases:
        over = entry.row
        print(
            f"{entry.name:40} {entry.raw:6.2f} {entry.bound:6.2f} | "
            f"{entry.python:6.2f} {shown(over['python_over_raw'])} | "
            f"{shown(entry.cpp)} {shown(over['cpp_over_raw'])} | {shown(entry.torch_tensorrt)}"
        )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump([entry.row for entry in cases], file, indent=2)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
