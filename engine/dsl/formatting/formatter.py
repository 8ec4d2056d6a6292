"""Text of a rules file in its one layout: lines of at most 120 columns, the same tree, all comments.

The layout depends on the words, the comments and the empty lines between items, and on nothing else: however a file is
cut into lines, it comes out the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any

from lark import Lark, Token, Tree

from engine.dsl.formatting.comments import Around, attached
from engine.dsl.formatting.document import Document, Printer
from engine.dsl.formatting.layout import CLAUSES, Layout, children
from engine.dsl.syntax.parser import parse

# Empty lines that are kept between items; what is in a rule stands together.
_MOST_BLANK = 2
# Comments that are cut or move to a line of their own may be laid out otherwise there; it takes one turn more.
_MOST_TURNS = 4


@functools.cache
def _lark() -> tuple[Lark, list[Token]]:
    grammar = resources.files("engine.dsl.syntax").joinpath("grammar.lark").read_text()
    comments: list[Token] = []
    parser = Lark(
        grammar, parser="lalr", propagate_positions=True, keep_all_tokens=True, maybe_placeholders=False,
        lexer_callbacks={"COMMENT": comments.append},
    )  # fmt: skip
    return parser, comments


def formatted(text: str, path: str = "<text>") -> str:
    """The text of a rules file in its one layout.

    Args:
        path: shown in error messages.

    Raises:
        RuleError: the text has syntax errors.
    """
    parse(text, path)
    for _ in range(_MOST_TURNS):
        before, text = text, _once(text)
        if text == before:
            break
    return text


def _once(text: str) -> str:
    parser, comments = _lark()
    comments.clear()
    items = parser.parse(text).children  # type: ignore[attr-defined]
    words = [word for item in items for word in _words(item)]
    around, last = attached(words, comments)
    return _Writer(text, around).all(items, last)


def _words(branch: Any) -> Iterator[Token]:
    if isinstance(branch, Token):
        yield branch
    else:
        for part in children(branch):
            yield from _words(part)


class _Writer:
    def __init__(self, text: str, around: dict[int, Around]) -> None:
        self.lines = text.split("\n")
        self.around = around
        self.layout = Layout(around)
        self.printer = Printer()
        self.line = 0  # where the last thing written ends in the text

    def all(self, items: Sequence[Any], last: Sequence[Token]) -> str:
        """Items, and the comments behind them."""
        before: Any = None
        for item in items:
            first = next(_words(item))
            comments = self._before(first)
            if before is not None and before.data == "rule":
                comments = self._of_rule_before(comments)
            # A rule stands apart from what is before and behind it.
            least = 1 if before is not None and "rule" in (before.data, item.data) else 0
            self._comments(comments, least)
            self._blank((first.line or 0) - self.line - 1, 0 if comments else least)
            self._item(item)
            before = item
        rest = list(last)
        if before is not None and before.data == "rule":
            rest = self._of_rule_before(rest)
        self._comments(rest)
        return self.printer.text()

    def _before(self, word: Token) -> list[Token]:
        """The comments before the first word of an item, which are not part of its layout."""
        around = self.around.get(word.start_pos or 0)
        if around is None:
            return []
        comments = list(around.before)
        around.before.clear()
        return comments

    def _of_rule_before(self, comments: list[Token]) -> list[Token]:
        """Write the comments that are indented as the clauses of the rule before them; the others."""
        count = 0
        while count < len(comments) and (comments[count].column or 1) > 1 and comments[count].line == self.line + 1:
            self.printer.comment(comments[count].rstrip(), 2)
            self.line = comments[count].line or 0
            count += 1
        return comments[count:]

    def _comments(self, comments: Sequence[Token], least: int = 0) -> None:
        for comment in comments:
            self._blank((comment.line or 0) - self.line - 1, least if comment is comments[0] else 0)
            self.printer.comment(comment.rstrip(), 0)
            self.line = comment.line or 0

    def _blank(self, count: int, least: int) -> None:
        """Empty lines as in the text, within limits; none at the beginning."""
        if self.line:
            self.printer.blank(max(least, min(count, _MOST_BLANK)))

    def _item(self, item: Any) -> None:
        if item.data != "rule":
            self._print(item, 0, self.layout.of)
        else:
            given = children(item)
            clauses = [part for part in given if not isinstance(part, Token) and part.data in CLAUSES]
            opening = Tree("opening", [part for part in given if part not in clauses])
            self._print(opening, 0, self.layout.opening)
            for clause in clauses:
                self._print(clause, 2, self.layout.of)
        self.line = max(word.end_line or 0 for word in _words(item))

    def _print(self, branch: Any, indent: int, layout: Callable[[Any], Document]) -> None:
        """An item or a clause; a comment behind its last word stands behind it all, and breaks nothing."""
        *_, last = _words(branch)
        around = self.around.get(last.start_pos or 0)
        behind = None if around is None else around.behind
        if around is not None:
            around.behind = None
            if not around.before:
                del self.around[last.start_pos or 0]
        self.printer.print(layout(branch), indent)
        if behind is not None:
            self.printer.behind(behind.rstrip())


__all__ = ["formatted"]
