"""Runs beside CUDA's default stream, which nothing can be recorded from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from engine.runtime.cuda_graphs.own_streams import own_stream


def run_beside(run: Callable[[Sequence[Any]], list[torch.Tensor]], inputs: Sequence[Any]) -> list[torch.Tensor]:
    """Run on the current stream, or on one of our own where that is CUDA's default stream.

    TensorRT-RTX records its own CUDA graphs from the stream that it is given, and CUDA refuses that for the default
    stream.  The side stream waits for the current one and the other way round, so that the order of work stays;
    memory is not reused before both have done with it.
    """
    device = next((value.get_device() for value in inputs if isinstance(value, torch.Tensor) and value.is_cuda), None)
    if device is None:
        device = torch.cuda.current_device()
    current = torch.cuda.current_stream(device)
    if current.cuda_stream != 0 or torch.cuda.is_current_stream_capturing():
        return run(inputs)
    with own_stream(device) as side:
        side.wait_stream(current)
        with torch.cuda.stream(side):
            results = run(inputs)
        current.wait_stream(side)
        for value in inputs:
            if isinstance(value, torch.Tensor) and value.is_cuda:
                value.record_stream(side)
        for result in results:
            if result.is_cuda:
                result.record_stream(current)
    return results


__all__ = ["run_beside"]
