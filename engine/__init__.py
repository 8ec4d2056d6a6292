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
    from engine.dsl.source import RulesNotFound
    from engine.errors import (
        BuildError,
        CacheError,
        CaptureError,
        ConversionError,
        CoverageError,
        DistributedError,
        EngineError,
        FileError,
        InputError,
        InterpreterError,
        NewReleaseWarning,
        RecordError,
        RefitError,
        RefusalWarning,
        RuleError,
        RuntimeUnavailable,
        SaveError,
        SettingsError,
        StateError,
        TensorRTNotFound,
    )
    from engine.files.saving import load, save
    from engine.observers import observe
    from engine.refitting.refit import refit
    from engine.report import Report
    from engine.runtime.failures import EngineLoadError, ExecutionError
    from engine.runtime.module import TorchTensorRTModule
    from engine.settings import CompilationSettings, Settings

__version__ = "0.1.0"

_HOMES = {
    "BuildError": "engine.errors",
    "CacheError": "engine.errors",
    "CaptureError": "engine.errors",
    "CompilationSettings": "engine.settings",
    "CompiledModule": "engine.compiled.module",
    "ConversionError": "engine.errors",
    "CoverageError": "engine.errors",
    "DistributedError": "engine.errors",
    "EngineError": "engine.errors",
    "EngineLoadError": "engine.runtime.failures",
    "ExecutionError": "engine.runtime.failures",
    "FileError": "engine.errors",
    "Input": "engine.capture.inputs",
    "InputError": "engine.errors",
    "InterpreterError": "engine.errors",
    "NewReleaseWarning": "engine.errors",
    "RecordError": "engine.errors",
    "RefitError": "engine.errors",
    "RefusalWarning": "engine.errors",
    "Report": "engine.report",
    "RuleError": "engine.errors",
    "RuleSet": "engine.dsl.ruleset",
    "RulesNotFound": "engine.dsl.source",
    "RuntimeUnavailable": "engine.errors",
    "SaveError": "engine.errors",
    "Settings": "engine.settings",
    "SettingsError": "engine.errors",
    "StateError": "engine.errors",
    "TensorRTNotFound": "engine.errors",
    "TorchTensorRTModule": "engine.runtime.module",
    "compile": "engine.compiler",
    "coverage": "engine.compiler",
    "load": "engine.files.saving",
    "observe": "engine.observers",
    "refit": "engine.refitting.refit",
    "save": "engine.files.saving",
}

__all__ = [
    "BuildError",
    "CacheError",
    "CaptureError",
    "CompilationSettings",
    "CompiledModule",
    "ConversionError",
    "CoverageError",
    "DistributedError",
    "EngineError",
    "EngineLoadError",
    "ExecutionError",
    "FileError",
    "Input",
    "InputError",
    "InterpreterError",
    "NewReleaseWarning",
    "RecordError",
    "RefitError",
    "RefusalWarning",
    "Report",
    "RuleError",
    "RuleSet",
    "RulesNotFound",
    "RuntimeUnavailable",
    "SaveError",
    "Settings",
    "SettingsError",
    "StateError",
    "TensorRTNotFound",
    "TorchTensorRTModule",
    "compile",
    "coverage",
    "load",
    "observe",
    "refit",
    "rules",
    "save",
]


if not TYPE_CHECKING:  # to which every name of the module would seem to be there

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            return getattr(importlib.import_module(_HOMES[name]), name)
        if name == "rules":
            return importlib.import_module("engine.rules")
        raise AttributeError(f"module 'engine' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
