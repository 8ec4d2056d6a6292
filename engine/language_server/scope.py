"""The names of one item: operands, dims, values, parameters, loop variables."""

from __future__ import annotations

from engine.dsl import tree
from engine.errors import Span
from engine.language_server.buffer import Buffer, Item


def locals_of(item: Item) -> dict[str, Span]:
    """The names that an item binds, each with the place where it is bound first."""
    found: dict[str, Span] = {}
    if isinstance(item, tree.LayerItem | tree.Macro | tree.PatternItem | tree.Extern):
        for parameter in item.parameters:
            found.setdefault(parameter.name, parameter.span)
    for node in tree.walk(item):
        if isinstance(node, tree.Capture | tree.Dim | tree.Rest | tree.Target | tree.Alternative):
            if node.name is not None and node.name != "_":
                found.setdefault(node.name, node.span)
        elif isinstance(node, tree.OpPattern):
            for name in node.outputs or ():
                if name is not None:
                    found.setdefault(name, node.span)
        elif isinstance(node, tree.Family):
            for name in node.names:
                found.setdefault(name, node.span)
    return found


def bound_at(name: str, item: Item, buffer: Buffer) -> Span | None:
    """The word that binds a name of an item."""
    place = locals_of(item).get(name)
    if place is None:
        return None
    for word in buffer.words(place.line, place.end_line):
        after = (word.span.line, word.span.column) >= (place.line, place.column)
        if word.text == name and after:
            return word.span
    return place


def places_in(name: str, item: Item, buffer: Buffer) -> list[Span]:
    """Where an item reads or binds one of its names; a keyword of that name is none of it."""
    found = []
    for word in buffer.words(item.span.line, item.span.end_line):
        if word.text == name and not word.called and not _keyword(word.span, buffer):
            found.append(word.span)
    return found


def _keyword(span: Span, buffer: Buffer) -> bool:
    """Whether a word stands before the `=` of an argument: `op=SUM`."""
    rest = buffer.code[span.line - 1][span.end_column - 1 :]
    return rest.startswith("=") and not rest.startswith("==")


__all__ = ["bound_at", "locals_of", "places_in"]
