"""The TensorRT layers of a compiled model."""

from __future__ import annotations

from collections import Counter
from typing import Any

from engine.interpreter.program import _steps
from engine.runtime import TorchTensorRTModule


def layer_kinds(compiled: Any) -> Counter[str]:
    """How many layers of each ``LayerType`` the networks of a model compiled for the interpreter have."""
    kinds: Counter[str] = Counter()
    for module in compiled.modules():
        if isinstance(module, TorchTensorRTModule):
            assert module._program is not None
            kinds.update(step.type for step in _steps(module._program._block))
    return kinds
