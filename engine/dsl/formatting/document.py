"""Documents that can be laid out in several ways, and the printer that chooses line breaks for a width.

The algorithm is the one of prettier, after Wadler's "A prettier printer": a group stays on one line if it fits there,
and otherwise its own breaks become line breaks. A fill breaks only where the next item does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

WIDTH = 120
"""The most columns of a line."""


@dataclass(frozen=True, slots=True)
class Break:
    """``flat`` on one line, or a line break."""

    flat: str = " "


@dataclass(frozen=True, slots=True)
class Fresh:
    """A line break, unless the line is empty so far; what holds it never fits on one line."""


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment; ``trailing`` ones stand behind what is before them."""

    text: str
    trailing: bool


class Joined:
    """Documents one after the other."""

    __slots__ = ("parts", "width")

    def __init__(self, parts: Iterable[Document]) -> None:
        self.parts = tuple(parts)
        self.width = sum(map(width_of, self.parts))


class Nest:
    """A document whose lines but the first are indented: by so many columns, or, with None, to where it begins."""

    __slots__ = ("by", "inner", "width")

    def __init__(self, inner: Document, by: int | None = 2) -> None:
        self.inner = inner
        self.by = by
        self.width = width_of(inner)


class Group:
    """A document on one line if it fits."""

    __slots__ = ("inner", "width")

    def __init__(self, inner: Document) -> None:
        self.inner = inner
        self.width = width_of(inner)


class Fill:
    """Items with a break between each two, as many on a line as fit; one of several lines has them for itself."""

    __slots__ = ("items", "width")

    def __init__(self, items: Sequence[Document]) -> None:
        self.items = tuple(items)
        self.width = sum(map(width_of, self.items)) + max(0, len(self.items) - 1)


@dataclass(slots=True)
class _Filling:
    """A fill that is being laid out: its next item, and how many lines there were before the last one."""

    items: Sequence[Document]
    next: int
    line: int


Document: TypeAlias = str | Break | Fresh | Comment | Joined | Nest | Group | Fill | _Filling


def width_of(document: Document) -> float:
    """The columns of a document on one line, infinite where it has a comment."""
    if isinstance(document, str):
        return len(document)
    if isinstance(document, Break):
        return len(document.flat)
    if isinstance(document, Fresh | Comment | _Filling):
        return math.inf
    return document.width


def join(*parts: Document) -> Document:
    """Documents one after the other."""
    return parts[0] if len(parts) == 1 else Joined(parts)


class Printer:
    """Lays documents out, one below the other."""

    def __init__(self, width: int = WIDTH) -> None:
        self.limit = width
        self.lines: list[str] = []
        self.line = ""
        self.indent = 0

    def text(self) -> str:
        """All lines."""
        return "".join(f"{line.rstrip()}\n" for line in [*self.lines, self.line][: None if self.line.strip() else -1])

    def blank(self, count: int) -> None:
        """End the line, and leave empty lines."""
        self._end(0)
        self.lines.extend([""] * count)

    def _end(self, indent: int) -> None:
        if self.line.strip():
            self.lines.append(self.line)
        self.line = " " * indent

    def comment(self, text: str, indent: int) -> None:
        """A comment on lines of its own, cut between words where it is too long."""
        self._end(indent)
        while len(text) > self.limit - indent:
            cut = text.rfind(" ", len(text) - len(text.lstrip("#")) + 1, self.limit - indent + 1)
            if cut <= 0:
                break
            self.lines.append(" " * indent + text[:cut].rstrip())
            text = "# " + text[cut:].strip()
        self.lines.append(" " * indent + text)
        self.line = " " * indent

    def print(self, document: Document, indent: int) -> None:
        """A document that begins a line with this indentation, which further lines have at least."""
        self._end(indent)
        self._run([(indent, False, document)])

    def behind(self, text: str) -> None:
        """A comment at the end of the line."""
        self._comment(Comment(text, True), len(self.line) - len(self.line.lstrip()))

    def _run(self, stack: list[tuple[int, bool, Document]]) -> None:
        while stack:
            indent, flat, document = stack.pop()
            match document:
                case str():
                    self.line += document
                case Break():
                    if not flat:
                        self._end(indent)
                    elif self.line.strip():
                        self.line += document.flat
                case Fresh():
                    self._end(indent)
                case Comment():
                    self._comment(document, indent)
                case Joined():
                    stack.extend((indent, flat, part) for part in reversed(document.parts))
                case Nest():
                    inner = len(self.line) if document.by is None else indent + document.by
                    stack.append((inner, flat, document.inner))
                case Group():
                    stack.append((indent, flat or self._fits(document.inner, stack), document.inner))
                case Fill():
                    if flat:
                        between = [part for item in document.items for part in (Break(), item)][1:]
                        stack.extend((indent, True, part) for part in reversed(between))
                    elif document.items:
                        stack.append((indent, False, _Filling(document.items, 0, 0)))
                case _Filling():
                    self._fill(document, indent, stack)

    def _fill(self, filling: _Filling, indent: int, stack: list[tuple[int, bool, Document]]) -> None:
        """The next item of a fill; where what stands behind the last one does not fit, that one goes on a new line."""
        item, number = filling.items[filling.next], filling.next
        if number + 1 < len(filling.items):
            stack.append((indent, False, filling))
        if number and self.line.strip():
            if len(self.lines) > filling.line or not self._fits(join(" ", item), stack):
                self._end(indent)
            else:
                self.line += " "
        filling.next, filling.line = number + 1, len(self.lines)
        stack.append((indent, self._fits(item, stack), item))

    def _fits(self, document: Document, after: list[tuple[int, bool, Document]]) -> bool:
        left = self.limit - len(self.line) - width_of(document)
        if left < 0:
            return False
        # What follows up to the next place where the line may end is on this line too.
        for _, flat, part in reversed(after):
            width, ends = _up_to_break(part, flat)
            left -= width
            if left < 0:
                return False
            if ends:
                break
        return True

    def _comment(self, comment: Comment, indent: int) -> None:
        if not comment.trailing:
            self.comment(comment.text, indent)
        elif len(self.line) + 2 + len(comment.text) <= self.limit:
            self.line += "  " + comment.text
            self._end(indent)
        else:  # above the line, where there is room for it
            line, own = self.line, len(self.line) - len(self.line.lstrip())
            self.line = ""
            self.comment(comment.text, own)
            self.line = line
            self._end(indent)


def _up_to_break(document: Document, flat: bool) -> tuple[float, bool]:
    """The columns before the first place where a line may end, and whether there is one."""
    match document:
        case str():
            return len(document), False
        case Break():
            return (len(document.flat), False) if flat else (0, True)
        case Fresh() | Comment() | _Filling():
            return 0, True
        case Joined():
            total = 0.0
            for part in document.parts:
                width, ends = _up_to_break(part, flat)
                total += width
                if ends:
                    return total, True
            return total, False
        case Nest():
            return _up_to_break(document.inner, flat)
        case Group():
            return _up_to_break(document.inner, flat)
        case Fill():
            if flat or not document.items:
                return document.width, math.isinf(document.width)
            width, ends = _up_to_break(document.items[0], False)
            return width, ends or len(document.items) > 1


__all__ = [
    "WIDTH",
    "Break",
    "Comment",
    "Document",
    "Fill",
    "Fresh",
    "Group",
    "Joined",
    "Nest",
    "Printer",
    "join",
    "width_of",
]
