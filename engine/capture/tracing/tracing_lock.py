"""The lock under which PyTorch traces."""

from __future__ import annotations

from threading import RLock
from typing import Any

_OWN = RLock()


def tracing_lock() -> Any:
    """What to hold while ``torch.export`` or AOTAutograd traces: both exchange kernels for the whole process.

    It is the lock that Dynamo holds while it calls a backend: one lock, so nobody can wait for the other.
    """
    from torch._dynamo import convert_frame

    return getattr(convert_frame, "compile_lock", _OWN)


__all__ = ["tracing_lock"]
