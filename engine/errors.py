"""Errors and diagnostics: what went wrong, where, and what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a source file; lines and columns count from 1, the end is exclusive."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One mistake in a rules file.

    ``source`` is the text of the line the span starts on, so that a diagnostic can be printed
    without the file.  ``related`` are secondary spans with a label each.
    """

    message: str
    span: Span | None = None
    source: str = ""
    label: str = ""
    hint: str | None = None
    related: tuple[tuple[Span, str, str], ...] = field(default=())

    def __str__(self) -> str:
        if self.span is None:
            text = f"error: {self.message}"
        else:
            text = f"{self.span}: error: {self.message}" + _underline(self.span, self.source, self.label)
        for span, source, label in self.related:
            text += f"\n{span}: note: {label}" + _underline(span, source, "")
        return text + (f"\n  = help: {self.hint}" if self.hint else "")


def _underline(span: Span, source: str, label: str) -> str:
    if not source:
        return ""
    source, column = source.rstrip(), span.column
    end = span.end_column if span.end_line == span.line else len(source) + 1
    width = max(1, end - column)
    if len(source) > _WIDEST:
        start = max(0, column - 1 - _WIDEST // 4)
        before, after = "... " if start else "", " ..." if start + _WIDEST < len(source) else ""
        column += len(before) - start
        width = min(width, _WIDEST + len(before) - column + 1)
        source = before + source[start : start + _WIDEST] + after
    number = f"{span.line:>4} | "
    marks = " " * (len(number) - 2) + "| " + " " * (column - 1) + "^" * width
    return f"\n{number}{source}\n{marks}" + (f" {label}" if label else "")


# Letters of a line that are shown; rules have up to 120.
_WIDEST = 600


class EngineError(Exception):
    """Base class of every error that ``engine`` raises on purpose."""


class RuleError(EngineError):
    """A rules file is wrong.  Holds every mistake found, not just the first."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(map(str, self.diagnostics)))


class CaptureError(EngineError):
    """``torch.export`` could not take the model."""


class InputError(EngineError, ValueError):
    """An input has the wrong count, dtype, device or shape."""


class StateError(EngineError, RuntimeError):
    """What a compiled module keeps from call to call cannot be used as it is."""


class CoverageError(EngineError):
    """``require_full_compilation`` was asked for and a node has no rule."""


class ConversionError(EngineError):
    """A rule's layers do not compute what the graph says, or TensorRT rejected them."""


class BuildError(EngineError):
    """TensorRT could not build an engine."""


class InterpreterError(EngineError):
    """The interpreter cannot run a network: an undeclared layer, or values a layer does not allow."""


class TensorRTNotFound(EngineError, ImportError):
    """No usable TensorRT package is installed."""


class RuntimeUnavailable(EngineError, RuntimeError):
    """The requested way of running an engine cannot run here."""


class SettingsError(EngineError, ValueError):
    """A compilation setting has a value that cannot be honoured."""


class CacheError(EngineError, OSError):
    """A cache directory cannot be used."""


class RefitError(EngineError, RuntimeError):
    """A compiled model cannot take other weights, or not these; it keeps those it has."""


class FileError(EngineError, ValueError):
    """A saved file is damaged, of another kind, or holds something that is not taken from a file."""


class DistributedError(EngineError, RuntimeError):
    """Ranks that work together did not compile the same, or one of them failed or is lost."""


class RecordError(FileError):
    """A field of an engine record is missing, too many, or damaged."""


class SaveError(EngineError, ValueError):
    """A module holds something that a file cannot hold."""


class RefusalWarning(UserWarning):
    """Less of a model is in engines than its rules promised: TensorRT refused the rest."""


class TuningWarning(UserWarning):
    """Decisions of another GPU or TensorRT are not used."""


class NewReleaseWarning(UserWarning):
    """PyTorch or TensorRT is newer than every release that this package was run with."""


# Whose frames stand between a warning and the line of the user that it is about.
_INNER = frozenset({"engine", "torch", "contextlib", "functools", "builtins"})


def user_frame() -> int:
    """The ``stacklevel`` of the user's line that led to a warning, so that each such line is warned about once."""
    frame, level = sys._getframe(1), 1
    while frame is not None:
        # AOTAutograd's generated wrappers have no module.
        module = str(frame.f_globals.get("__name__", "torch"))
        if module.partition(".")[0] not in _INNER:
            return level
        frame, level = frame.f_back, level + 1  # type: ignore[assignment]
    return 2
