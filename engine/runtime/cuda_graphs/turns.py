"""Python threads that queue work on one GPU take turns, where the C++ library is there.

``csrc/engine/turn.h`` says why.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

Turn: TypeAlias = "Callable[[int], None]"


@functools.cache
def turns() -> tuple[Turn, Turn]:
    """The functions that acquire and release the calling thread's turn on a CUDA device."""
    # Only here: the library's module imports much that a process without a GPU does not need.
    from engine.runtime.engines.cpp_engine import load_library

    library = load_library()
    if library is None:
        return _nothing, _nothing
    return library.native.take_turn, library.native.give_turn


def _nothing(device: int) -> None:
    pass


__all__ = ["turns"]
