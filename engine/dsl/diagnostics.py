"""Collecting the mistakes of a set of rules files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from engine.dsl.syntax.own_names import MARK
from engine.errors import Diagnostic, RuleError, Span

_ITEMS = frozenset({"simplify", "lower", "convert", "def", "pattern", "extern", "layer"})


# Nobody mends more at once, and looking for what was meant takes time for each.
MOST_MISTAKES = 100


class TooMany(Exception):
    """So many mistakes are recorded that checking goes no further."""


class Problems:
    """Mistakes found so far, each once, whatever number of family members has it."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._lines = {path: text.split("\n") for path, text in texts.items()}
        self._found: dict[tuple[Span, str], Diagnostic] = {}

    def report(
        self,
        message: str,
        span: Span,
        hint: str | None = None,
        related: tuple[Span, str] | None = None,
        label: str = "",
    ) -> None:
        """Record a mistake, with another place that has to do with it.

        Raises:
            TooMany: there are enough.
        """
        message, hint = message.replace(MARK, ""), hint and hint.replace(MARK, "")
        span = self._heading(span)
        more: tuple[tuple[Span, str, str], ...] = ()
        if related is not None:
            place = self._heading(related[0])
            more = ((place, self.source(place), related[1]),)
        self._found.setdefault((span, message), Diagnostic(message, span, self.source(span), label, hint, more))
        if len(self._found) > MOST_MISTAKES:
            raise TooMany

    def add(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Record mistakes that something else has described."""
        for diagnostic in diagnostics:
            assert diagnostic.span is not None
            self._found.setdefault((diagnostic.span, diagnostic.message), diagnostic)

    def source(self, span: Span) -> str:
        """The line that a span starts on."""
        lines = self._lines.get(span.file, [])
        return lines[span.line - 1] if 0 < span.line <= len(lines) else ""

    def _heading(self, span: Span) -> Span:
        """Of an item of several lines, its first two words: `convert relu`."""
        if span.end_line == span.line:
            return span
        words = re.match(r"\w+\s+[\w.]+", self.source(span)[span.column - 1 :])
        if words is None or words.group().partition(" ")[0] not in _ITEMS:
            return span
        return Span(span.file, span.line, span.column, span.line, span.column + words.end())

    def __bool__(self) -> bool:
        return bool(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def raise_if_any(self) -> None:
        """Raise everything that was found, in the order of the files' text.

        Raises:
            RuleError: there is a mistake.
        """
        if self._found:
            raise RuleError(
                sorted(self._found.values(), key=lambda d: (d.span.file, d.span.line, d.span.column))  # type: ignore[union-attr]
            )
