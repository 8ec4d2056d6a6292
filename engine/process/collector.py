"""Python's garbage collector, held back for the seconds in which a graph is worked on.

Graphs, their fake tensors and sympy's expressions are many objects that live on.  A full collection walks all of
them, and everything else in the process, to find nothing: a third of our share of a compilation, measured.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_holders = 0
_was_enabled = False


@contextmanager
def collector_held_back() -> Iterator[None]:
    """No automatic collection inside; nests, and several threads may be inside at once."""
    global _holders, _was_enabled
    with _lock:
        if _holders == 0:
            _was_enabled = gc.isenabled()
            gc.disable()
        _holders += 1
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if _holders == 0 and _was_enabled:
                gc.enable()
