"""Something that a tool has to say of a place in a rules file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine.errors import Diagnostic, Span
from engine.linter.codes import CODES

SCHEMA = 1
"""The version of the JSON that `engine rules check`, `lint` and `fmt --check` print."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to mend, or to say why it is right.

    Attributes:
        code: its code in :data:`engine.linter.codes.CODES`.
        rule: id of the rule, or name of the macro or pattern that it is in; empty for a whole file.
        related: another place that has to do with it, and how.
    """

    code: str
    span: Span
    message: str
    rule: str = ""
    hint: str | None = None
    related: tuple[Span, str] | None = None

    @property
    def error(self) -> bool:
        """Whether it is an error whatever was asked for."""
        return CODES[self.code].error

    def __str__(self) -> str:
        kind = "error" if self.error else "warning"
        name = f"{self.rule}: " if self.rule else ""
        text = f"{self.span}: {kind}[{self.code}]: {name}{self.message}"
        if self.related is not None:
            text += f"\n{self.related[0]}: note: {self.related[1]}"
        return text + (f"\n  = help: {self.hint}" if self.hint else "")

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON has it."""
        found: dict[str, Any] = {
            "code": self.code,
            "name": CODES[self.code].name,
            "severity": "error" if self.error else "warning",
            "message": self.message,
            "rule": self.rule or None,
            "hint": self.hint,
            **place(self.span),
        }
        if self.related is not None:
            found["related"] = {"message": self.related[1], **place(self.related[0])}
        return found


def place(span: Span) -> dict[str, Any]:
    """A span as JSON has it: lines and columns count from 1, the end is exclusive."""
    return {
        "file": span.file,
        "line": span.line,
        "column": span.column,
        "end_line": span.end_line,
        "end_column": span.end_column,
    }


def of_diagnostics(diagnostics: Iterable[Diagnostic]) -> list[Finding]:
    """The mistakes for which rules do not load."""
    nowhere = Span("", 1, 1, 1, 1)
    return [
        Finding(
            "R001",
            diagnostic.span or nowhere,
            diagnostic.message,
            hint=diagnostic.hint,
            related=None if not diagnostic.related else (diagnostic.related[0][0], diagnostic.related[0][2]),
        )
        for diagnostic in diagnostics
    ]


__all__ = ["SCHEMA", "Finding", "of_diagnostics", "place"]
