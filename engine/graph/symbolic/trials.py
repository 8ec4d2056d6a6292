"""Ops that are tried on fake tensors, and may fail: what PyTorch logs of that is for nobody."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")
_THREAD = threading.local()


@contextmanager
def unlogged() -> Iterator[None]:
    """Keep PyTorch from logging failures of inference in this thread, whose error says everything, with tracebacks."""
    _install()
    depth = getattr(_THREAD, "depth", 0)
    _THREAD.depth = depth + 1
    try:
        yield
    finally:
        _THREAD.depth = depth


@functools.cache
def _install() -> None:
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(lambda record: not getattr(_THREAD, "depth", 0))


__all__ = ["unlogged"]
