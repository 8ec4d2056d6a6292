"""Square roots of sizes, where code of PyTorch's or of a model takes them by ``math.sqrt``."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import uninteresting_files

__all__ = ["roots_of_sizes"]

_ROOT = math.sqrt
_LOCK = threading.Lock()
_users = 0


@contextmanager
def roots_of_sizes() -> Iterator[None]:
    """Let ``math.sqrt`` of a size be a size, as ``torch.sym_sqrt`` has it; it makes a number of it, for one size.

    Numbers have the root that they always had, so that other threads see no difference.
    """
    global _users
    # Who asks about sizes is never this file.
    uninteresting_files().add(__file__)
    with _LOCK:
        _users += 1
        math.sqrt = _sqrt  # type: ignore[assignment]
    try:
        yield
    finally:
        with _LOCK:
            _users -= 1
            if not _users:
                math.sqrt = _ROOT


def _sqrt(number: Any) -> Any:
    return torch._sym_sqrt(number) if isinstance(number, torch.SymInt | torch.SymFloat) else _ROOT(number)  # type: ignore[attr-defined]
