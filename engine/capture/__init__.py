"""Capture: a PyTorch model becomes a canonical ATen graph with known inputs, constants and ranges."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.capture.captured import Captured
    from engine.capture.inputs import Input, Profile, Range
    from engine.capture.pipeline import capture
    from engine.capture.signature import Argument, Signature

__all__ = ["Argument", "Captured", "Input", "Profile", "Range", "Signature", "capture"]

_HOMES = {
    "Argument": "engine.capture.signature",
    "Captured": "engine.capture.captured",
    "Input": "engine.capture.inputs",
    "Profile": "engine.capture.inputs",
    "Range": "engine.capture.inputs",
    "Signature": "engine.capture.signature",
    "capture": "engine.capture.pipeline",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'engine.capture' has no attribute {name!r}")
