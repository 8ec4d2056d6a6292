"""engine compiles PyTorch models to TensorRT; every lowering and conversion is a rule in a ``.rules`` file.

The public surface.  Names are loaded when they are first used, so that ``import engine`` is quick and
TensorRT is not loaded before something needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine import rules
    from engine.capture.inputs import Input
    from engine.compiled.module import CompiledModule
    from engine.compiler import compile, coverage
    from engine.dsl.ruleset import RuleSet
    from engine.errors import EngineError
    from engine.files.saving import load, save
    from engine.observers import observe
    from engine.refitting.refit import refit
    from engine.report import Report
    from engine.runtime.module import TorchTensorRTModule
    from engine.settings import CompilationSettings

__version__ = "0.1.0"

_HOMES = {
    "CompilationSettings": "engine.settings",
    "CompiledModule": "engine.compiled.module",
    "EngineError": "engine.errors",
    "Input": "engine.capture.inputs",
    "Report": "engine.report",
    "RuleSet": "engine.dsl.ruleset",
    "TorchTensorRTModule": "engine.runtime.module",
    "compile": "engine.compiler",
    "coverage": "engine.compiler",
    "load": "engine.files.saving",
    "observe": "engine.observers",
    "refit": "engine.refitting.refit",
    "save": "engine.files.saving",
}

__all__ = [
    "CompilationSettings",
    "CompiledModule",
    "EngineError",
    "Input",
    "Report",
    "RuleSet",
    "TorchTensorRTModule",
    "compile",
    "coverage",
    "load",
    "observe",
    "refit",
    "rules",
    "save",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "rules":
        return importlib.import_module("engine.rules")
    raise AttributeError(f"module 'engine' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
