"""Time and memory of one process."""

from __future__ import annotations

import fcntl
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

GROUP_SECONDS, BUDGET = 0.05, 1.0


@contextmanager
def compiling(lock: str | None) -> Iterator[None]:
    """While other processes of the same lock may compile too, and none is timed."""
    with _held(lock, fcntl.LOCK_SH):
        yield


@contextmanager
def alone(lock: str | None) -> Iterator[None]:
    """While no other process of the same lock compiles or is timed: compilers use the GPU and the cores as well."""
    with _held(lock, fcntl.LOCK_EX):
        yield


@contextmanager
def _held(lock: str | None, how: int) -> Iterator[None]:
    if lock is None:
        yield
        return
    with open(lock, "a", encoding="utf-8") as file:
        fcntl.flock(file, how)
        yield


def wait() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def latency(call: Callable[[], Any], budget: float = BUDGET) -> tuple[float, float]:
    """Milliseconds: the median of back-to-back calls, and the 99th percentile of calls that are waited for."""
    for _ in range(5):
        call()
    wait()
    start = time.perf_counter()
    call()
    wait()
    once = max(time.perf_counter() - start, 1e-6)
    number = max(1, min(50, int(GROUP_SECONDS / once)))
    groups: list[float] = []
    end = time.perf_counter() + budget
    while len(groups) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(number):
            call()
        wait()
        groups.append((time.perf_counter() - start) * 1e3 / number)
    single: list[float] = []
    end = time.perf_counter() + budget
    while len(single) < 20 or (time.perf_counter() < end and len(single) < 2000):
        start = time.perf_counter()
        call()
        wait()
        single.append((time.perf_counter() - start) * 1e3)
    return statistics.median(groups), sorted(single)[min(len(single) - 1, int(0.99 * len(single)))]


def recorded(call: Callable[[], Any]) -> Callable[[], Any]:
    """A call as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(5):
            call()
    torch.cuda.current_stream().wait_stream(side)
    wait()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        call()
    return graph.replay


class Peak:
    """Most host and device memory while something runs, beyond what there was before, in bytes."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Count from here."""
        self._before = (host_bytes(), device_bytes())
        self.host = self.device = 0

    def look(self) -> None:
        host, device = self._before
        self.host = max(self.host, host_bytes() - host)
        self.device = max(self.device, device_bytes() - device)


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Watch memory while the body runs."""
    peak, over = Peak(), threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            peak.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
        peak.look()


def host_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def device_bytes() -> int:
    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free
