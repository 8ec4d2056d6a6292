"""The base of all syntax nodes, and walking through trees of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from engine.errors import Span


class Compilable:
    """Base of immutable things that are compiled when they are first evaluated.

    What is compiled is kept beside them and lives as long as they do; it is no part of what they are.
    """

    __slots__ = ("compiled",)


@dataclass(frozen=True, slots=True)
class Node(Compilable):
    """Base of all syntax nodes."""

    span: Span


def walk(item: object) -> Iterator[Node]:
    """The nodes of a syntax tree, or of several, each before those in it."""
    if isinstance(item, Node):
        yield item
        for part in fields(item):
            if part.name != "span":
                yield from walk(getattr(item, part.name))
    elif isinstance(item, tuple | list):
        for part in item:
            yield from walk(part)


def same(a: object, b: object) -> bool:
    """Whether two syntax trees say the same, wherever they stand."""
    if isinstance(a, Node):
        return type(a) is type(b) and all(
            same(getattr(a, part.name), getattr(b, part.name)) for part in fields(a) if part.name != "span"
        )
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


__all__ = ["Compilable", "Node", "same", "walk"]
