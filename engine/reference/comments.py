"""The comment above an item of a rules file, which says what the item is for."""

from __future__ import annotations

from collections.abc import Sequence


def comment_above(lines: Sequence[str], line: int) -> str:
    """The sentences of the comment that ends right above a line, counted from 1; empty if there is none."""
    found: list[str] = []
    number = line - 2
    while number >= 0 and lines[number].startswith("#"):
        text = lines[number].lstrip("#").strip()
        if text.startswith(("----", "allow ")):
            break
        found.append(text)
        number -= 1
    return " ".join(" ".join(reversed(found)).split())


__all__ = ["comment_above"]
