"""Rules that no test line shows to be right."""

from __future__ import annotations

from collections.abc import Iterator

from engine.linter.finding import Finding
from engine.linter.subject import Subject, name_of


def untested(subject: Subject) -> Iterator[Finding]:
    """Rules without a `test` line."""
    for file, item, _ in subject.items():
        if not any(not test.rejects for test in item.tests):
            message = "it has no `test` line, so nothing shows that it is right"
            yield Finding("R104", item.span, message, name_of(file, item), "test  x: f32[2, 3]")


__all__ = ["untested"]
