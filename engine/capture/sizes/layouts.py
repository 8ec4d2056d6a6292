"""Questions of PyTorch about sizes that lay out memory, while a model is captured: no value depends on them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch.fx.experimental.symbolic_shapes import uninteresting_files

from engine.capture.sizes.branches import __file__ as branches_file

_TORCH = os.path.join(os.path.dirname(torch.__file__), "")
# Functions that look at the number of channels on a GPU; it may be the batch of the model.
_OF_CHANNELS = frozenset({"_upsample_linear", "_upsample_nearest", "upsample_nearest2d"})
# PyTorch 2.11 asks whether a pooled size divides to round a quotient of two positive numbers, which it never changes.
_OF_NOTHING = frozenset({"div_rtn"})
_LOCK = threading.RLock()


@contextmanager
def layouts_by_hint() -> Iterator[None]:
    """Let operators choose strides by the example's number of channels without a guard on it.

    A guard that compares a size with a number narrows its range for good: ``interpolate`` takes four channels or more
    on a GPU for another case than three.
    """
    with _LOCK:
        asked = torch.SymBool.__bool__

        def answer(question: torch.SymBool) -> bool:
            if _is_answered_by_hint(sys._getframe(1)) and question.node.has_hint():
                return bool(question.node.hint)
            return asked(question)

        # A ``ShapeEnv`` notes who asks, which is never this file.
        uninteresting_files().add(__file__)
        torch.SymBool.__bool__ = answer  # type: ignore[method-assign]
        try:
            yield
        finally:
            torch.SymBool.__bool__ = asked  # type: ignore[method-assign]


def _is_answered_by_hint(frame: FrameType | None) -> bool:
    if frame is not None and frame.f_code.co_filename == branches_file:
        frame = frame.f_back
    asks = frame is not None and frame.f_code.co_name in _OF_CHANNELS | _OF_NOTHING
    return asks and frame.f_code.co_filename.startswith(_TORCH)  # type: ignore[union-attr]


__all__ = ["layouts_by_hint"]
