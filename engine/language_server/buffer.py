"""A file as an editor has it: its text, the words in it, and what could be parsed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from engine.dsl import tree
from engine.dsl.source import builtin_directory
from engine.dsl.syntax.parser import parse_with_errors
from engine.errors import Diagnostic, Span

Item: TypeAlias = tree.RuleItem | tree.Macro | tree.PatternItem | tree.Extern | tree.LayerItem

_WORD = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_NO_CODE = re.compile(r'#[^\n]*|"[^"\n]*"')


@dataclass(frozen=True, slots=True)
class Word:
    """A name in a text, dotted or not; lines and columns count from 1."""

    text: str
    span: Span
    called: bool

    @property
    def parts(self) -> tuple[str, str]:
        """What stands before the last dot, and what behind it."""
        head, _, tail = self.text.rpartition(".")
        return head, tail


@dataclass(frozen=True)
class Buffer:
    """One version of a file."""

    path: str
    text: str

    @cached_property
    def lines(self) -> list[str]:
        """The lines, without their ends."""
        return self.text.split("\n")

    @cached_property
    def code(self) -> list[str]:
        """The lines with blanks for strings and comments."""
        return _NO_CODE.sub(lambda found: " " * len(found.group()), self.text).split("\n")

    @cached_property
    def parsed(self) -> tuple[tree.File, list[Diagnostic]]:
        """What could be parsed, and the syntax errors."""
        return parse_with_errors(self.text, self.path)

    @property
    def file(self) -> tree.File:
        """What could be parsed."""
        return self.parsed[0]

    @property
    def builtin(self) -> bool:
        """Whether it is one of the built-in files."""
        return builtin_directory().resolve() in Path(self.path).resolve().parents

    @cached_property
    def items(self) -> list[Item]:
        """The items that could be parsed, in order."""
        file = self.file
        items: list[Item] = [*file.rules, *file.macros, *file.patterns, *file.externs, *file.layers]
        return sorted(items, key=lambda item: (item.span.line, item.span.column))

    def item_at(self, line: int) -> Item | None:
        """The item that a line is in, or that ends last before it."""
        found = None
        for item in self.items:
            if item.span.line <= line:
                found = item
        return found

    def word_at(self, line: int, column: int) -> Word | None:
        """The name at a place in the code."""
        return next(
            (word for word in self.words(line, line) if word.span.column <= column <= word.span.end_column), None
        )

    def words(self, first: int = 1, last: int | None = None) -> Iterator[Word]:
        """The names in some lines of the code."""
        for number in range(first, (len(self.code) if last is None else min(last, len(self.code))) + 1):
            line = self.code[number - 1]
            for found in _WORD.finditer(line):
                span = Span(self.path, number, found.start() + 1, number, found.end() + 1)
                yield Word(found.group(), span, line[found.end() :].lstrip()[:1] in ("(", "{"))

    def before(self, line: int, column: int) -> str:
        """The code of the item up to a place, or of the last lines where nothing can be parsed."""
        first = line
        while first > 1 and not re.match(r"(simplify|lower|convert|def|pattern|extern|layer)\b", self.code[first - 1]):
            first -= 1
        lines = [*self.code[first - 1 : line - 1], self.code[line - 1][: column - 1]]
        return "\n".join(lines)


__all__ = ["Buffer", "Item", "Word"]
