"""Which word of a rules file a comment belongs to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from lark import Token


@dataclass(slots=True)
class Around:
    """The comments of one word: those on lines before it, and one behind it on its line."""

    before: list[Token] = field(default_factory=list)
    behind: Token | None = None


def attached(tokens: Sequence[Token], comments: Sequence[Token]) -> tuple[dict[int, Around], list[Token]]:
    """Comments by the position of the word they belong to, and those after the last word.

    A comment on a line of its own belongs to the word after it; one at the end of a line to the word before it.
    """
    found: dict[int, Around] = defaultdict(Around)
    last: list[Token] = []
    position = 0
    for comment in comments:
        start = comment.start_pos or 0
        while position < len(tokens) and (tokens[position].start_pos or 0) < start:
            position += 1
        before = tokens[position - 1] if position else None
        if before is not None and before.end_line == comment.line:
            found[before.start_pos or 0].behind = comment
        elif position < len(tokens):
            found[tokens[position].start_pos or 0].before.append(comment)
        else:
            last.append(comment)
    return dict(found), last


__all__ = ["Around", "attached"]
