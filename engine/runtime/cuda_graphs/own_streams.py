"""CUDA streams that PyTorch hands to no one else.

``torch.cuda.Stream()`` hands out 32 streams in turn, so two of its callers may hold the same one.  That is harmless for
work that is queued, and wrong for a stream that is being captured: what another thread queues there becomes part of the
CUDA graph, and runs again with every replay.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections import defaultdict
from collections.abc import Iterator

import torch

from engine.runtime.failures import ExecutionError

_NON_BLOCKING = 1
_idle: defaultdict[int, list[torch.cuda.Stream]] = defaultdict(list)


@contextlib.contextmanager
def own_stream(device: int) -> Iterator[torch.cuda.Stream]:
    """A stream on a device for the time of the ``with`` block; what is queued on it may still run afterwards.

    Streams are kept for the next caller, so there are as many as blocks that were ever open at once.

    Raises:
        ExecutionError: CUDA does not make a stream.
    """
    try:
        stream = _idle[device].pop()
    except IndexError:
        stream = _made(device)
    try:
        yield stream
    finally:
        _idle[device].append(stream)


def _made(device: int) -> torch.cuda.Stream:
    handle = ctypes.c_void_p()
    with torch.cuda.device(device):
        # A thread's first call into CUDA makes the device's context current in it.
        torch.cuda.current_stream().query()
        # PyTorch has loaded the driver; of its own functions none makes a stream that does not wait for stream 0.
        status = ctypes.CDLL("libcuda.so.1").cuStreamCreate(ctypes.byref(handle), _NON_BLOCKING)
    if status != 0 or not handle.value:
        raise ExecutionError(f"CUDA cannot create a stream on device {device}: error {status}")
    return torch.cuda.ExternalStream(handle.value, torch.device("cuda", device))


__all__ = ["own_stream"]
