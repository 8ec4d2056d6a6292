"""The text of an expression on one line, spaced as the formatter spaces it, however it was laid out."""

from __future__ import annotations

import re

_WORD = re.compile(
    r'(?P<string>"[^"]*")|(?P<comment>#[^\n]*)|(?P<number>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\d+)'
    r"|(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)"
    r"|(?P<infix>:=|==|!=|<=|>=|->|\+\+|//|[-+*/%<>|])|(?P<rest>\.\.|\S)"
)
_WORDS = frozenset({"and", "or", "not", "in", "is", "if", "else", "for"})
_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")


def one_line(text: str) -> str:
    """The words of an expression with single spaces where they belong, without comments."""
    out = ""
    last, kind, operand = "", "", False  # the word before, its kind, and whether it ends an operand
    for found in _WORD.finditer(text):
        word, own = found.group(), str(found.lastgroup)
        if own == "comment":
            continue
        if own == "infix" and word == "-" and not operand:
            own = "prefix"
        keyword = own == "name" and word in _WORDS
        if out and _apart(last, kind, operand, word, own, keyword):
            out += " "
        out += word
        operand = (own in ("string", "number", "name") and not keyword) or word in _CLOSE or word == "?"
        last, kind = word, "keyword" if keyword else own
    return out


def _apart(last: str, kind: str, operand: bool, word: str, own: str, keyword: bool) -> bool:
    """Whether a space stands between two words."""
    if last in _OPEN or kind == "prefix" or last in ("..", "~", "&", ".", ":", "="):
        return False
    if word in _CLOSE or word in (",", ".", ":", "=", "?"):
        return False
    if word in ("(", "[", "{"):
        return not operand
    if word == ".." and operand and kind in ("number", "name"):
        return kind == "keyword"
    return True if keyword or own == "infix" or kind in ("keyword", "infix") or last == "," else operand


__all__ = ["one_line"]
