"""Text of a rules file to its syntax tree, with every syntax error at once.

A file without mistakes is parsed in one go.  Otherwise it is cut at the words that begin an item or a clause
on a line of their own, and the pieces are parsed alone, so that one mistake hides no other.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lark import Token, UnexpectedEOF, UnexpectedInput

from engine.dsl import tree
from engine.dsl.checks.limits import LARGEST_FILE, MOST_TOKENS
from engine.dsl.diagnostics import MOST_MISTAKES
from engine.dsl.syntax import grammar
from engine.dsl.syntax.builder import Builder
from engine.dsl.syntax.syntax_hints import MISTAKES, WORDS
from engine.dsl.vocabulary import nearest
from engine.errors import Diagnostic, RuleError, Span

_ITEM = re.compile(r"^[ \t]*(simplify|lower|convert|def|pattern|extern|layer)\b(?![ \t]*[=,)\]:.])", re.MULTILINE)
_CLAUSE = re.compile(
    r"^[ \t]*(match|when|let|emit|needs|over|decreases|relax|test|reject)\b(?![ \t]*[=,)\]:.])", re.MULTILINE
)
_RULE = re.compile(r"\s*(simplify|lower|convert)\b")
# Possessive: what is not blank is found without trying every way to part the comments before it.
_BLANK = re.compile(r"(?:\s++|#[^\n]*+)*+")
_TOKEN = re.compile(r"\w+|[^\w\s]")


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
    """Parse a rules file; returns what could be parsed, and all mistakes."""
    lines = text.split("\n")
    builder = Builder(path, lines)
    tokens = sum(1 for _ in itertools.islice(_TOKEN.finditer(text), MOST_TOKENS + 1))
    if len(text) > LARGEST_FILE or tokens > MOST_TOKENS:
        limits = f"{LARGEST_FILE // 1024} KiB and {MOST_TOKENS} words"
        top = Span(path, 1, 1, 1, 1)
        return tree.File(stem or Path(path).stem, path, text, (), (), (), ()), [
            Diagnostic(f"this file is too large; one file has up to {limits}", top, hint="split it")
        ]
    try:
        branches = grammar.parser().parse(text).children  # type: ignore[attr-defined]
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
        patterns=tuple(item for item in items if isinstance(item, tree.PatternItem)),
    )
    diagnostics = sorted(syntax + builder.diagnostics, key=lambda d: (d.span.line, d.span.column) if d.span else (0, 0))
    return file, diagnostics


def _parse_pieces(text: str, path: str, lines: list[str]) -> tuple[list[Any], list[Diagnostic]]:
    branches: list[Any] = []
    diagnostics: list[Diagnostic] = []
    for start, end in _pieces(text, _ITEM, 0, len(text)):
        piece = _only(text, start, end)
        try:
            branches += grammar.parser().parse(piece).children  # type: ignore[attr-defined]
            continue
        except UnexpectedInput as error:
            whole = _diagnostic(error, piece, path, lines)
        found = []
        if _RULE.match(text, start, end):
            opening, *clauses = _pieces(text, _CLAUSE, start, end)
            pieces = [_only(text, *opening), *(_only(text, *clause, opening=opening[0]) for clause in clauses)]
            for piece in pieces:
                try:
                    grammar.parser().parse(piece)
                except UnexpectedInput as error:
                    found.append(_diagnostic(error, piece, path, lines))
        diagnostics += found or [whole]
        if len(diagnostics) >= MOST_MISTAKES:
            break
    return branches, diagnostics


def _pieces(text: str, boundary: re.Pattern[str], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Stretches of ``text`` that begin at a boundary; blank stretches are left out."""
    cuts = [match.start(1) for match in boundary.finditer(text, start, end)]
    for first, last in zip([start, *cuts], [*cuts, end], strict=True):
        blank = _BLANK.match(text, first, last)
        if blank is None or blank.end() < last:
            yield first, last


def _only(text: str, start: int, end: int, opening: int | None = None) -> str:
    """``text[start:end]`` at its line and column; a clause gets an opening of a rule where its own begins."""
    line = text.rfind("\n", 0, start) + 1
    before = "\n" * text.count("\n", 0, line)
    if opening is not None:
        above = text.count("\n", 0, opening)
        before = "\n" * above + "lower rule" + before[above:]
    return before + " " * (start - line) + text[start:end]


# ------------------------------------------------------------------------------------------ messages


def _diagnostic(error: UnexpectedInput, piece: str, path: str, lines: list[str]) -> Diagnostic:
    line, column = max(1, error.line), max(1, error.column)
    token: Token | None = getattr(error, "token", None)
    source = lines[line - 1] if line <= len(lines) else ""
    found = ""
    width = 1
    if isinstance(error, UnexpectedEOF) or (token is not None and token.type == "$END"):
        message = "the text ends too early"
        if token is not None and token.end_line is not None and token.end_column is not None:
            line, column = token.end_line, token.end_column
    else:
        word = re.match(r"\w+|\S", source[column - 1 :])
        found = str(token) if token is not None else word.group() if word else " "
        width = len(found)
        message = f"unexpected `{found if found.isprintable() else ascii(found)[1:-1]}`"
        if found == '"':
            message, width = "this string has no end", len(source) - column + 1
    line = min(line, len(lines) or 1)
    return Diagnostic(
        message,
        Span(path, line, column, line, column + width),
        lines[line - 1] if lines else "",
        _expected(error),
        _hint(error, found, piece, line, column),
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
}


def _expected(error: UnexpectedInput) -> str:
    """What could stand here, where that is a short list."""
    words = set()
    for terminal in _accepted(error):
        pattern = _patterns().get(terminal)
        words.add(_TERMINALS.get(terminal) or (f"`{pattern}`" if pattern else ""))
    words -= {""}
    return "expected " + " or ".join(sorted(words)) if 0 < len(words) <= 3 else ""


def _accepted(error: UnexpectedInput) -> frozenset[str]:
    found = getattr(error, "accepts", None) or getattr(error, "expected", None) or getattr(error, "allowed", None)
    return frozenset(found or ())


@functools.cache
def _patterns() -> dict[str, str]:
    return {t.name: t.pattern.value for t in grammar.parser().terminals if t.pattern.type == "str"}


_ITEMS = ("simplify", "lower", "convert", "def", "pattern", "extern", "layer")
_WORD = re.compile(r"\w+")
# `x = f32[2, 3]`, up to the mistake: what follows `f32[` reads as an index.
_GIVEN_TENSOR = re.compile(r"[^=:]=\s*(const\s+)?(bool|[fiu]\d+|bf16)\[[^]]*$")
_CLAUSES = ("match", "when", "let", "emit", "needs", "over", "decreases", "relax", "test", "reject")


def _clause(text: str, found: str) -> str | None:
    """Advice where the word before a mistake, or the word itself, looks like that of a clause and is none.

    Words need no space behind them, so that `matches` reads as `match es`.
    """
    # Read backwards: a search for the end of the text starts anew at each letter.
    before = _WORD.match(text.rstrip()[::-1])
    for word in (before.group()[::-1] if before else "", found):
        if len(word) < 3 or word in _CLAUSES or word in _ITEMS:
            continue
        near = nearest(word, _CLAUSES)
        if near is not None:
            return f"`{word}` is no clause; did you mean `{near}`?"
    return None


def _hint(error: UnexpectedInput, found: str, piece: str, line: int, column: int) -> str | None:
    """Advice: from the letter or word itself, from open brackets, from mistakes like it."""
    if found in WORDS:
        return WORDS[found]
    before = piece.split("\n")[:line]
    before[-1] = before[-1][: column - 1]
    text = "\n".join(before)
    if found == "*" and text.endswith("*"):
        return "write a power as a product, or as an op"
    clause = _clause(text, found)
    if clause is not None:
        return clause
    if _GIVEN_TENSOR.search(text):
        return "in a test line a tensor is `x: f32[2, 3]` and any other value `k = 3`"
    known = _mistakes().get(_situation(error))
    if known is not None:
        return known
    if _BLANK.fullmatch(text):
        return (
            "a file holds rules, named patterns, macros, host functions and layers: "
            "`convert name match .. emit ..`, `def name(x) = ..`"
        )
    if "ELSE" in _accepted(error):
        return "`a if test else b` always has an `else`"
    open_brackets = _open_brackets(text)
    if found in _CLOSING and not open_brackets:
        return "it closes nothing"
    if open_brackets and (found in _CLOSING or not found or _STARTS.match(found)):
        bracket, at = open_brackets[-1]
        return None if _PAIRS[bracket] == found else f"the `{bracket}` of line {at} is still open"
    return None


_PAIRS = {"(": ")", "[": "]", "{": "}"}
_CLOSING = frozenset(_PAIRS.values())
_STARTS = re.compile(
    r"(match|when|let|emit|needs|over|decreases|relax|test|reject|simplify|lower|convert|def|pattern|extern|layer)$"
)


def _open_brackets(text: str) -> list[tuple[str, int]]:
    """Brackets that are not closed at the end of a text, with their lines."""
    found: list[tuple[str, int]] = []
    line = 1
    for match in re.finditer(r'#[^\n]*|"[^"\n]*"|[()\[\]{}\n]', text):
        letter = match.group()
        if letter == "\n":
            line += 1
        elif letter in _PAIRS:
            found.append((letter, line))
        elif letter in _CLOSING and found and _PAIRS[found[-1][0]] == letter:
            found.pop()
    return found


def _situation(error: UnexpectedInput) -> tuple[object, str]:
    """State of the parser and kind of token: mistakes that agree in these are alike."""
    state = getattr(error.state, "position", error.state)
    token = getattr(error, "token", None)
    return state, "" if token is None else token.type


@functools.cache
def _mistakes() -> dict[tuple[object, str], str]:
    """The advice for each situation that the known mistakes lead to."""
    advice: dict[tuple[object, str], str] = {}
    for hint, examples in MISTAKES.items():
        for example in examples:
            try:
                grammar.parser().parse(example)
            except UnexpectedInput as error:
                advice.setdefault(_situation(error), hint)
    return advice
