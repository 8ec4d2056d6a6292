"""PyTorch's own logs of what it cannot do, which become our errors and reasons: not ours to print as well."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Those that print fifty lines for an error that somebody catches.
_LOUD = (
    "torch._dynamo.guards",
    "torch._guards",
    "torch._subclasses.fake_tensor",
    "torch.fx.experimental.symbolic_shapes",
)


class _NotHere(logging.Filter):
    """Keeps what one thread logs from being printed."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is somebody else's, or was asked for (``TORCH_LOGS`` asks for those below warnings)."""
        return record.levelno < logging.WARNING or threading.get_ident() != self._thread


@contextmanager
def quiet_pytorch() -> Iterator[None]:
    """No errors and warnings of PyTorch's tracing on stderr, from this thread: they are raised too."""
    silence = _NotHere()
    loggers = [logging.getLogger(name) for name in _LOUD]
    for logger in loggers:
        logger.addFilter(silence)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(silence)


__all__ = ["quiet_pytorch"]
