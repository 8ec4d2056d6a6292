"""Where PyTorch chooses strides by a size while a model is captured."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from engine.capture.branches import __file__ as branches_file

_TORCH = os.path.join(os.path.dirname(torch.__file__), "")
# Functions that look at the number of channels on a GPU; it may be the batch of the model.
_FUNCTIONS = frozenset({"_upsample_linear", "_upsample_nearest", "upsample_nearest2d"})
_LOCK = threading.RLock()


@contextmanager
def layouts_by_hint() -> Iterator[None]:
    """Let operators choose strides by the example's sizes, without a guard on them.

    No value depends on strides, and a guard would keep a size on one side for good: ``interpolate`` takes four
    channels or more on a GPU for another case than three.
    """
    with _LOCK:
        asked = torch.SymBool.__bool__

        def answer(question: torch.SymBool) -> bool:
            if _chooses_strides(sys._getframe(1)) and question.node.has_hint():
                return bool(question.node.hint)
            return asked(question)

        torch.SymBool.__bool__ = answer  # type: ignore[method-assign]
        try:
            yield
        finally:
            torch.SymBool.__bool__ = asked  # type: ignore[method-assign]


def _chooses_strides(frame: FrameType | None) -> bool:
    if frame is not None and frame.f_code.co_filename == branches_file:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name in _FUNCTIONS and frame.f_code.co_filename.startswith(_TORCH)


__all__ = ["layouts_by_hint"]
