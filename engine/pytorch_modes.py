"""Modes of PyTorch that a caller may have turned on, and that our own work must not follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

autocast_is_on: Callable[[], bool] = torch._C._is_any_autocast_enabled
without_autocast: Callable[[], Any] = torch._C._DisableAutocast
"""A context in which every op runs in the dtype of its inputs."""


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


__all__ = ["apart", "autocast_is_on", "undisturbed", "without_autocast"]
