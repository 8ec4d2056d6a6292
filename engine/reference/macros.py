"""The macros and named patterns of a file, with the comments above them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.dsl import tree
from engine.dsl.source import builtin_directory
from engine.dsl.syntax.parser import parse
from engine.reference.comments import comment_above
from engine.reference.entry import Entry
from engine.reference.written import written


def macros(path: Path | None = None) -> dict[str, Entry]:
    """The macros of a file by name; by default those of the prelude, which every file may use."""
    file = path or builtin_directory() / "prelude.rules"
    text = file.read_text(encoding="utf-8")
    return macros_of(parse(text, str(file)))


def macros_of(file: tree.File) -> dict[str, Entry]:
    """The macros of a parsed file by name."""
    lines = file.text.split("\n")
    return {
        macro.name: Entry(
            "macro", macro.name, f"def {macro.name}({_parameters(macro, lines)}) = {written(lines, macro.body.span)}",
            comment_above(lines, macro.span.line), span=macro.span,
        )
        for macro in file.macros
    }  # fmt: skip


def patterns_of(file: tree.File) -> dict[str, Entry]:
    """The named patterns of a parsed file by name."""
    lines = file.text.split("\n")
    return {
        item.name: Entry(
            "pattern", item.name, written(lines, item.span), comment_above(lines, item.span.line), span=item.span
        )
        for item in file.patterns
    }


def _parameters(macro: tree.Macro, lines: Sequence[str]) -> str:
    return ", ".join(written(lines, parameter.span) for parameter in macro.parameters)


__all__ = ["macros", "macros_of", "patterns_of"]
