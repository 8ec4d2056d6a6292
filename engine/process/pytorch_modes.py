"""What a caller of PyTorch may have turned on or holds, and our own work must not follow or change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

autocast_is_on: Callable[[], bool] = torch._C._is_any_autocast_enabled
without_autocast: Callable[[], Any] = torch._C._DisableAutocast
"""A context in which every op runs in the dtype of its inputs."""
# Missing from PyTorch that is built without CUDA.
is_capturing: Callable[[], bool] = getattr(torch._C, "_cuda_isCurrentStreamCapturing", lambda: False)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Run the body without the caller's autocast and default device (``torch.device(...)``, ``set_default_device``)."""
    with ExitStack() as stack:
        stack.enter_context(without_autocast())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def apart() -> Iterator[None]:
    """Run the body `undisturbed`, and without gradients and inference mode, whose tensors could not be used later."""
    with torch.inference_mode(False), torch.no_grad(), undisturbed():
        yield


@contextmanager
def put_back(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Give tensors the values back that they have now, after the body and on the current stream."""
    before = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)


__all__ = ["apart", "autocast_is_on", "is_capturing", "put_back", "undisturbed", "without_autocast"]
