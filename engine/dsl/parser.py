"""Text of a rules file to its syntax tree, with every syntax error at once.

A file without mistakes is parsed in one go.  Otherwise it is cut at the words that begin an item or a clause
on a line of their own, and the pieces are parsed alone, so that one mistake hides no other.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from lark import Lark, Token, UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken

from engine.dsl import tree
from engine.dsl.builder import Builder
from engine.dsl.mistakes import MISTAKES
from engine.errors import Diagnostic, RuleError, Span

_ITEM = re.compile(r"^[ \t]*(simplify|lower|convert|def|extern|layer)\b(?![ \t]*[=,)\]:.])", re.MULTILINE)
_CLAUSE = re.compile(
    r"^[ \t]*(match|when|let|emit|needs|over|decreases|relax|test|reject)\b(?![ \t]*[=,)\]:.])", re.MULTILINE
)
_RULE = re.compile(r"\s*(simplify|lower|convert)\b")
_BLANK = re.compile(r"(\s|#[^\n]*)*")


@functools.cache
def _lark() -> Lark:
    grammar = resources.files("engine.dsl").joinpath("grammar.lark").read_text()
    return Lark(grammar, parser="lalr", start=["start", "clauses"], propagate_positions=True)


def parse(text: str, path: str = "<text>", stem: str | None = None) -> tree.File:
    """Parse a rules file.

    Args:
        path: shown in error messages.
        stem: first part of rule ids; the stem of ``path`` by default.

    Raises:
        RuleError: with every syntax error in the text.
    """
    file, diagnostics = parse_with_errors(text, path, stem)
    if diagnostics:
        raise RuleError(diagnostics)
    return file


def parse_with_errors(text: str, path: str, stem: str | None = None) -> tuple[tree.File, list[Diagnostic]]:
    """Parse a rules file; gives what could be parsed, and all mistakes."""
    lines = text.splitlines()
    builder = Builder(path, lines)
    try:
        branches = _lark().parse(text, start="start").children  # type: ignore[attr-defined]
        syntax: list[Diagnostic] = []
    except UnexpectedInput:
        branches, syntax = _parse_pieces(text, path, lines)
    items = [item for item in map(builder.item, branches) if item is not None]
    file = tree.File(
        Path(path).stem if stem is None else stem,
        path,
        text,
        rules=tuple(item for item in items if isinstance(item, tree.RuleItem)),
        macros=tuple(item for item in items if isinstance(item, tree.Macro)),
        externs=tuple(item for item in items if isinstance(item, tree.Extern)),
        layers=tuple(item for item in items if isinstance(item, tree.LayerItem)),
    )
    diagnostics = sorted(syntax + builder.diagnostics, key=lambda d: (d.span.line, d.span.column) if d.span else (0, 0))
    return file, diagnostics


def _parse_pieces(text: str, path: str, lines: list[str]) -> tuple[list[Any], list[Diagnostic]]:
    branches: list[Any] = []
    diagnostics: list[Diagnostic] = []
    for start, end in _pieces(text, _ITEM, 0, len(text)):
        piece = _only(text, start, end)
        try:
            branches += _lark().parse(piece, start="start").children  # type: ignore[attr-defined]
            continue
        except UnexpectedInput as error:
            whole = _diagnostic(error, path, lines)
        found = []
        if _RULE.match(text, start, end):
            for number, (first, last) in enumerate(_pieces(text, _CLAUSE, start, end)):
                try:
                    _lark().parse(_only(text, first, last), start="clauses" if number else "start")
                except UnexpectedInput as error:
                    found.append(_diagnostic(error, path, lines))
        diagnostics += found or [whole]
    return branches, diagnostics


def _pieces(text: str, boundary: re.Pattern[str], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Stretches of ``text`` that begin at a boundary; blank stretches are left out."""
    cuts = [match.start(1) for match in boundary.finditer(text, start, end)]
    for first, last in zip([start, *cuts], [*cuts, end], strict=True):
        blank = _BLANK.match(text, first, last)
        if blank is None or blank.end() < last:
            yield first, last


def _only(text: str, start: int, end: int) -> str:
    """``text[start:end]`` at its line and column."""
    line = text.rfind("\n", 0, start) + 1
    return "\n" * text.count("\n", 0, line) + " " * (start - line) + text[start:end]


# ------------------------------------------------------------------------------------------ messages


def _diagnostic(error: UnexpectedInput, path: str, lines: list[str]) -> Diagnostic:
    line, column = error.line, error.column
    width = 1
    if isinstance(error, UnexpectedToken) and error.token.type == "$END" or isinstance(error, UnexpectedEOF):
        message = "the text ends too early"
        token: Token | None = getattr(error, "token", None)
        if token is not None and token.line is not None:
            line, column = token.end_line or token.line, token.end_column or token.column or 1
    elif isinstance(error, UnexpectedToken):
        message = f"unexpected `{error.token}`"
        width = len(str(error.token))
    else:
        assert isinstance(error, UnexpectedCharacters)
        source = lines[line - 1] if 0 < line <= len(lines) else ""
        word = re.match(r"\w+|\S", source[column - 1 :])
        if word is not None and word.group() == '"':
            message, width = "this string has no end", len(source) - column + 1
        else:
            message = f"unexpected `{word.group() if word else error.char}`"
            width = len(word.group()) if word else 1
    line = max(1, min(line, len(lines) or 1))
    column = max(1, column)
    source = lines[line - 1] if lines else ""
    return Diagnostic(
        message,
        Span(path, line, column, line, column + width),
        source,
        _expected(error),
        _hint(error),
    )


_TERMINALS = {
    "NAME": "a name",
    "QNAME": "an op, layer or host function",
    "UNAME": "an upper-case name",
    "CNAME": "an enum type",
    "INT": "a number",
    "FLOAT": "a number",
    "VERSION": "a version",
    "STRING": "a string",
    "KIND": "a rule",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "COMMA": "`,`",
    "COLON": "`:`",
    "EQUAL": "`=`",
    "DOT": "`.`",
    "__ANON_0": "`:=`",
}


def _expected(error: UnexpectedInput) -> str:
    """What could stand here, where that is a short list."""
    accepted = getattr(error, "accepts", None) or getattr(error, "expected", None) or getattr(error, "allowed", None)
    words = []
    for terminal in sorted(accepted or ()):
        if terminal == "$END":
            continue
        pattern = _patterns().get(terminal)
        words.append(_TERMINALS.get(terminal) or (f"`{pattern}`" if pattern else ""))
    words = sorted(set(filter(None, words)))
    if not 0 < len(words) <= 3:
        return ""
    return "expected " + " or ".join(words)


@functools.cache
def _patterns() -> dict[str, str]:
    return {t.name: t.pattern.value for t in _lark().terminals if t.pattern.type == "str"}


def _hint(error: UnexpectedInput) -> str | None:
    """The advice that goes with the nearest of the mistakes we know."""

    def parse_example(example: str) -> object:
        return _lark().parse(example, start="start")

    return error.match_examples(parse_example, MISTAKES, use_accepts=True)  # type: ignore[no-any-return]
