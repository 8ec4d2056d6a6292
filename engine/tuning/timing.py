"""Times of several callables that compute the same, taken in turns so that clocks and neighbours cost each the same."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

_ROUNDS = 9
# Seconds of work in a round of one callable, at least; clocks of GPUs and timers are exact enough for that.
_ROUND = 0.004
# Calls that one CUDA graph holds, so that the time to launch it does not count.
_CALLS = 10
_WARM_UPS = 3

Call = Callable[[], Any]


def median_ms(calls: Sequence[Call], *, on_gpu: bool) -> list[float]:
    """Milliseconds of a call of each, medians of rounds in turns.

    On a GPU calls are replays of a CUDA graph, timed by CUDA events; what cannot be recorded is called. On a CPU they
    are called, by the clock on the wall.
    """
    runs = [_on_gpu(call) if on_gpu else _on_cpu(call) for call in calls]
    once = [run(1) for run in runs]
    counts = [max(1, min(1000, math.ceil(_ROUND / max(seconds, 1e-7)))) for seconds in once]
    rounds: list[list[float]] = [[] for _ in runs]
    for turn in range(_ROUNDS if on_gpu else 3):
        order = list(range(len(runs)))
        for index in order if turn % 2 == 0 else reversed(order):
            rounds[index].append(runs[index](counts[index]))
    return [statistics.median(times) * 1e3 for times in rounds]


def _on_cpu(call: Call) -> Callable[[int], float]:
    call()

    def seconds(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - started) / count

    return seconds


def _on_gpu(call: Call) -> Callable[[int], float]:
    """Seconds of a call, of as many replays as are asked for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            call()
    stream.synchronize()
    graph: torch.cuda.CUDAGraph | None = torch.cuda.CUDAGraph()
    assert graph is not None
    per = _CALLS
    try:
        # TensorRT-RTX compiles kernels in threads of its own, which would invalidate a capture in PyTorch's own mode.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            for _ in range(_CALLS):
                call()
    except Exception:  # whatever waits for the GPU in the middle of a call
        torch.cuda.synchronize()
        graph, per = None, 1

    def seconds(count: int) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        replays = max(1, count // per)
        with torch.cuda.stream(stream):
            start.record()
            for _ in range(replays):
                if graph is not None:
                    graph.replay()
                else:
                    call()
            end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / (replays * per)

    return seconds


__all__ = ["median_ms"]
