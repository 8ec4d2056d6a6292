"""Reads of tensors that tracing does not see, such as ``weight.data``, made ops that it sees."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from engine.capture.sizes.branches import described_line
from engine.errors import CaptureError

_TORCH = torch.__file__.removesuffix("__init__.py")
_TRACED = (FakeTensor, FunctionalTensor)
_LOCK = threading.RLock()
_data: Any = torch._C.TensorBase.data
_as_subclass = torch._C.TensorBase.as_subclass


@contextmanager
def traced_reads() -> Iterator[None]:
    """Let models read tensors through ``.data`` while they are traced.

    PyTorch gives a tensor of which the tracer knows nothing: a parameter read in this way would be a constant
    without values.  Without gradients, ``.data`` is ``.detach()``, and so is ``.as_subclass(torch.Tensor)``.  Other
    threads read tensors as ever.

    Raises:
        CaptureError: a model gives a tensor other ``.data``, of which a trace would not know.
    """
    thread = threading.get_ident()

    def read(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach() if threading.get_ident() == thread else _data.__get__(tensor)

    def as_subclass(tensor: torch.Tensor, cls: Any) -> Any:
        if cls is torch.Tensor and threading.get_ident() == thread:
            return tensor.detach()
        return _as_subclass(tensor, cls)

    with _LOCK:
        # A class of Python in front of the one that has these attributes: nothing of it is replaced.
        before = {name: vars(torch.Tensor)[name] for name in ("data", "as_subclass") if name in vars(torch.Tensor)}
        torch.Tensor.data = property(read, _write)  # type: ignore[assignment, misc]
        torch.Tensor.as_subclass = as_subclass  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            for name in ("data", "as_subclass"):
                if name in before:
                    setattr(torch.Tensor, name, before[name])
                else:
                    delattr(torch.Tensor, name)


def _write(tensor: torch.Tensor, value: Any) -> None:
    if isinstance(tensor, _TRACED) and value is not tensor:
        raise CaptureError(
            "the model replaces the .data of a tensor in forward, which a graph cannot do: compute with the new tensor "
            f"(torch.nn.functional takes weights as arguments){_asker(sys._getframe(1))}"
        )
    _data.__set__(tensor, value)


def _asker(frame: FrameType | None) -> str:
    """The model line that asks, for the end of a message."""
    while frame is not None and frame.f_code.co_filename.startswith((_TORCH, "<")):
        frame = frame.f_back
    if frame is None:
        return ""
    return f"\n  at {described_line(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)}"


__all__ = ["traced_reads"]
