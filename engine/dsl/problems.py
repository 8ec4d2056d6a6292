"""Collecting the mistakes of a set of rules files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from engine.errors import Diagnostic, RuleError, Span


class Problems:
    """Mistakes found so far, each once, whatever number of family members has it."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._lines = {path: text.splitlines() for path, text in texts.items()}
        self._found: dict[tuple[Span, str], Diagnostic] = {}

    def report(
        self,
        message: str,
        span: Span,
        hint: str | None = None,
        related: tuple[Span, str] | None = None,
        label: str = "",
    ) -> None:
        """Record a mistake, with another place that has to do with it."""
        more = () if related is None else ((related[0], self.source(related[0]), related[1]),)
        self._found.setdefault((span, message), Diagnostic(message, span, self.source(span), label, hint, more))

    def add(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Record mistakes that something else has described."""
        for diagnostic in diagnostics:
            assert diagnostic.span is not None
            self._found.setdefault((diagnostic.span, diagnostic.message), diagnostic)

    def source(self, span: Span) -> str:
        """The line that a span starts on."""
        lines = self._lines.get(span.file, [])
        return lines[span.line - 1] if 0 < span.line <= len(lines) else ""

    def __bool__(self) -> bool:
        return bool(self._found)

    def raise_if_any(self) -> None:
        """Raise everything that was found, in the order of the files' text.

        Raises:
            RuleError: there is a mistake.
        """
        if self._found:
            raise RuleError(
                sorted(self._found.values(), key=lambda d: (d.span.file, d.span.line, d.span.column))  # type: ignore[union-attr]
            )
