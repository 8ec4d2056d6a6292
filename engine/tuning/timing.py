"""Times of several callables that compute the same, taken in turns so that clocks and neighbours cost each the same."""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

_ROUNDS = 9
# Seconds of work in a round of one callable, at least; clocks of GPUs and timers are exact enough for that.
_ROUND = 0.004
_WARM_UPS = 3

Call = Callable[[], Any]


def median_ms(calls: Sequence[Call], *, on_gpu: bool) -> list[float]:
    """Milliseconds of a call of each, medians of rounds in turns.

    On a GPU they are timed by CUDA events, on a CPU by the clock on the wall.
    """
    with warnings.catch_warnings():
        # Of what cannot be recorded as a CUDA graph; whoever runs the module with graphs is told then.
        warnings.simplefilter("ignore")
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
    for _ in range(_WARM_UPS):
        call()
    torch.cuda.synchronize()

    def seconds(count: int) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / count

    return seconds


__all__ = ["median_ms"]
