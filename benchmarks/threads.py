"""Throughput of several threads with streams of their own on one module, against one thread; results are checked.

Needs a GPU::

    python -m benchmarks.threads [--threads 8] [--calls 10000] [--rounds 8] [--runtime auto] [--json FILE]

``--calls`` is the number of all threads together.  Every result of the checked runs is compared, on the GPU, with
PyTorch's for the same input; the timed runs do the same calls without the comparison.  Bare runs are what
``execute_async_v3`` does alone, bare replays what ``torch.cuda.CUDAGraph`` does with the same computation in PyTorch:
what threads can gain there at all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import numpy
import torch

from engine.runtime import TorchTensorRTModule, enable_cudagraphs
from engine.tensorrt import load
from engine.tensorrt.logger import capturing_logger


def network(width: int = 256, layers: int = 4) -> tuple[bytes, list[numpy.ndarray]]:
    """Matrix products and ReLUs of [n, width], n from 1 to 64: the plan, and the weights."""
    trt = load()
    logger = capturing_logger()
    builder = trt.Builder(logger)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    net = builder.create_network(0 if flag is None else 1 << int(flag))
    x = net.add_input("x", trt.float32, (-1, width))
    none = trt.MatrixOperation.NONE
    random = numpy.random.default_rng(0)
    kept = []
    for _ in range(layers):
        weights = (random.standard_normal((width, width)) / width**0.5).astype(numpy.float32)
        kept.append(weights)
        w = net.add_constant((width, width), trt.Weights(weights)).get_output(0)
        x = net.add_matrix_multiply(x, none, w, none).get_output(0)
        x = net.add_activation(x, trt.ActivationType.RELU).get_output(0)
    x.name = "out"
    net.mark_output(x)
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, width), (16, width), (64, width))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(net, config)
    if plan is None:
        raise SystemExit("the network does not build: " + "; ".join(logger.errors()))
    return bytes(plan), kept


class Work:
    """Calls of one module, spread over threads."""

    def __init__(self, module: Any, weights: Sequence[numpy.ndarray]) -> None:
        self.module = module
        self.weights = [torch.from_numpy(w).cuda() for w in weights]
        self.inputs = [torch.randn(n, self.weights[0].shape[0], device="cuda") for n in (1, 4, 16, 64)]
        self.expected = [self.reference(x) for x in self.inputs]
        torch.cuda.synchronize()

    def reference(self, x: torch.Tensor) -> torch.Tensor:
        for w in self.weights:
            x = (x @ w).relu()
        return x

    def run(self, threads: int, seeds: int, calls: int, check: bool) -> tuple[float, int]:
        """Calls per second, and how many results were wrong; the calls are the same for any number of threads.

        Args:
            seeds: how many sequences of calls there are; each thread does as many, one after the other.
        """
        wrong: list[int] = []
        errors: list[BaseException] = []
        start = threading.Barrier(threads + 1)

        def work(thread: int) -> None:
            try:
                with torch.cuda.stream(torch.cuda.Stream()):
                    bad = torch.zeros((), dtype=torch.int64, device="cuda")
                    for i in range(4):
                        self.module(self.inputs[i])
                    torch.cuda.current_stream().synchronize()
                    start.wait()
                    for seed in range(thread, seeds, threads):
                        for turn in range(calls // seeds):
                            i = (seed + turn) % len(self.inputs) if check else seed % len(self.inputs)
                            result = self.module(self.inputs[i])
                            if check:
                                bad += ((result - self.expected[i]).abs() > 0.02).any()
                    torch.cuda.current_stream().synchronize()
                    wrong.append(int(bad))
            except BaseException as error:
                errors.append(error)
                start.abort()

        pool = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
        for thread in pool:
            thread.start()
        with suppress(threading.BrokenBarrierError):
            start.wait()
        began = time.perf_counter()
        for thread in pool:
            thread.join()
        spent = time.perf_counter() - began
        if errors:
            raise errors[0]
        return calls // seeds * seeds / spent, sum(wrong)


class BareRun:
    """What TensorRT alone does with threads: each stream has a context of its own, on which everything is set."""

    def __init__(self, work: Work, plan: bytes) -> None:
        trt = load()
        self.work = work
        self.runtime = trt.Runtime(capturing_logger())
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        self.lock = threading.Lock()
        self.contexts: dict[tuple[int, int], tuple[Any, torch.Tensor]] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        stream = torch.cuda.current_stream().cuda_stream
        found = self.contexts.get((stream, x.data_ptr()))
        if found is None:
            with self.lock:
                found = self.contexts[stream, x.data_ptr()] = self.bound(x)
        context, result = found
        context.execute_async_v3(stream)
        return result

    def bound(self, x: torch.Tensor) -> tuple[Any, torch.Tensor]:
        context, result = self.engine.create_execution_context(), torch.empty_like(x)
        context.set_input_shape("x", tuple(x.shape))
        context.set_tensor_address("x", x.data_ptr())
        context.set_tensor_address("out", result.data_ptr())
        return context, result


class BareReplay:
    """What PyTorch alone does with threads: each stream replays a graph of its own, and copies the result."""

    def __init__(self, work: Work, copies: bool) -> None:
        self.work = work
        self.copies = copies
        self.lock = threading.Lock()
        self.graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        key = torch.cuda.current_stream().cuda_stream, x.data_ptr()
        found = self.graphs.get(key)
        if found is None:
            with self.lock:
                found = self.graphs[key] = self.recorded(x)
        graph, result = found
        graph.replay()
        return result.clone() if self.copies else result

    def recorded(self, x: torch.Tensor) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        self.work.reference(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
            result = self.work.reference(x)
        return graph, result


def rates(work: Work, options: argparse.Namespace) -> tuple[float, float, float]:
    """Calls per second of one thread and of all, and their ratio: medians of rounds in which the two take turns.

    Cores of a shared machine may be twice as fast as others: one round says little.
    """
    found = [
        [work.run(threads, options.threads, options.calls, check=False)[0] for threads in (1, options.threads)]
        for _ in range(options.rounds)
    ]
    one, many = (statistics.median(each) for each in zip(*found, strict=True))
    return one, many, statistics.median(many / one for one, many in found)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--calls", type=int, default=10000)
    parser.add_argument("--runtime", default="auto", choices=("auto", "python", "cpp"))
    parser.add_argument("--rounds", type=int, default=8, help="timed rounds to take the median of")
    parser.add_argument("--json", help="write the rows to this file")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("threads needs an NVIDIA GPU", file=sys.stderr)
        return 1
    # Both sides in float32 proper, so that a wrong result is not a question of rounding.
    torch.backends.cuda.matmul.allow_tf32 = False
    plan, weights = network()
    module = TorchTensorRTModule(plan, ["x"], ["out"], runtime=options.runtime)
    work = Work(module, weights)
    rows = []
    modes: list[tuple[str, Callable[[], Any]]] = [
        ("plain", nullcontext),
        ("CUDA graphs", lambda: enable_cudagraphs(module, cache_size=64)),
    ]
    for mode, entered in modes:
        with entered():
            _, wrong = work.run(options.threads, options.threads, options.calls, check=True)
            one, many, ratio = rates(work, options)
        rows.append({"mode": mode, "one": one, "many": many, "ratio": ratio, "wrong": wrong})
    bare = Work(None, weights)
    for mode, alone in (
        ("bare run", BareRun(bare, plan)),
        ("bare replay", BareReplay(bare, copies=False)),
        ("bare, copied", BareReplay(bare, copies=True)),
    ):
        bare.module = alone
        one, many, ratio = rates(bare, options)
        rows.append({"mode": mode, "one": one, "many": many, "ratio": ratio, "wrong": 0})
    print(f"{torch.cuda.get_device_name()}, runtime {module.runtime}, {options.threads} threads, {options.calls} calls")
    print(f"{'calls per second':16} {'1 thread':>10} {'all':>10} {'ratio':>6} {'wrong':>8}")
    for row in rows:
        print(f"{row['mode']:16} {row['one']:10.0f} {row['many']:10.0f} {row['ratio']:6.2f} {row['wrong']:8d}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=2)
    return 1 if any(row["wrong"] for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
