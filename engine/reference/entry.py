"""One thing that rules may write, described."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import Span


@dataclass(frozen=True, slots=True)
class Entry:
    """A layer, macro, op, function or clause.

    Attributes:
        kind: "layer", "macro", "pattern", "op", "function" or "clause".
        signature: how it is called, as it would be declared.
        doc: what it does, in sentences.
        details: rows of a table that says more, each of as many cells as ``columns``.
        span: where it is defined, if in a rules file.
    """

    kind: str
    name: str
    signature: str
    doc: str
    columns: tuple[str, ...] = ()
    details: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    span: Span | None = None

    def markdown(self, language: str = "rules") -> str:
        """The entry as Markdown, without a heading."""
        parts = [f"```{language}\n{self.signature}\n```"]
        parts += [self.doc] if self.doc else []
        parts += [table(self.columns, self.details)] if self.details else []
        parts += self.notes
        return "\n\n".join(parts)

    def text(self) -> str:
        """The entry for a terminal."""
        parts = [self.signature]
        parts += [self.doc] if self.doc else []
        if self.details:
            rows = [self.columns, *self.details]
            widths = [max(len(row[i]) for row in rows) for i in range(len(self.columns))]
            lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
            parts.append("\n".join(f"  {line}".rstrip() for line in lines))
        parts += self.notes
        return "\n\n".join(parts)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(_row(cells) for cells in (columns, ["---"] * len(columns), *rows))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


__all__ = ["Entry", "table"]
