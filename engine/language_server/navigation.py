"""Where a name is defined, and where it is used."""

from __future__ import annotations

import re

from engine.errors import Span
from engine.language_server.buffer import Buffer, Word
from engine.language_server.project import Project
from engine.language_server.scope import bound_at, locals_of, places_in


def definition(word: Word, buffer: Buffer, project: Project) -> Span | None:
    """The place where a name is defined; None of what PyTorch or the language defines."""
    item = buffer.item_at(word.span.line)
    rule = _rule(word, buffer, project)
    if rule is not None:
        return rule
    if "." in word.text:
        entry = project.layers(buffer.path).get(word.text)
        if entry is None and word.text.startswith("host."):
            externs = [one for file in project.all(buffer.path) for one in file.file.externs if one.name == word.text]
            return externs[0].span if externs else None
        return None if entry is None or entry.span is None else _name_of(entry.span, word.text, project)
    if item is not None and not word.called and word.text in locals_of(item):
        return bound_at(word.text, item, buffer)
    entry = project.find(word.text, buffer.path)
    if entry is not None and entry.span is not None:
        return _name_of(entry.span, word.text, project)
    return None


def references(word: Word, buffer: Buffer, project: Project) -> list[Span]:
    """Every place of a name, that of its definition included."""
    item = buffer.item_at(word.span.line)
    local = item is not None and not word.called and word.text in locals_of(item)
    if local and item is not None and item.name != word.text:
        return places_in(word.text, item, buffer)
    if _rule(word, buffer, project) is not None:
        return _of_rule(word, buffer, project)
    defined = definition(word, buffer, project)
    if defined is None:
        return []
    home = next((other for other in project.all(buffer.path) if other.path == defined.file), None)
    found = []
    for other in project.all(buffer.path):
        # Built-in files do not use what a user defines.
        if word.text in other.text and (home is None or home.builtin or not other.builtin):
            found += [one.span for one in other.words() if one.text == word.text and not _local(one, other)]
    return found


def _local(word: Word, buffer: Buffer) -> bool:
    """Whether a word is a name of the item that it is in."""
    if word.called or "." in word.text:
        return False
    item = buffer.item_at(word.span.line)
    return item is not None and item.name != word.text and word.text in locals_of(item)


def _rule(word: Word, buffer: Buffer, project: Project) -> Span | None:
    """The rule that a word of an `over` clause, or the name behind `lower`, stands for."""
    before = buffer.before(word.span.line, word.span.column)
    opening = re.search(r"^(simplify|lower|convert)\s+$", before.rpartition("\n")[2])
    if not opening and not re.search(r"\bover\s+(?:[\w.]+\s*,\s*)*$", before):
        return None
    found = project.rule(word.text, buffer.path)
    if found is None:
        return None
    file, line, _ = found
    name = word.text.rpartition(".")[2]
    return next((one.span for one in file.words(line, line) if one.text == name), None)


def _of_rule(word: Word, buffer: Buffer, project: Project) -> list[Span]:
    own = _rule(word, buffer, project)
    assert own is not None
    name = word.text.rpartition(".")[2]
    found = [own]
    for other in project.all(buffer.path):
        if name not in other.text:
            continue
        for one in other.words():
            if one.text.rpartition(".")[2] == name and one.span != own and _rule(one, other, project) == own:
                found.append(one.span)
    return found


def _name_of(span: Span, name: str, project: Project) -> Span:
    """The word of a definition that is its name."""
    for buffer in (*project.open.values(), *project.builtin):
        if buffer.path == span.file:
            found = (word.span for word in buffer.words(span.line, span.line) if word.text == name)
            return next(found, span)
    return Span(span.file, span.line, span.column, span.line, span.column)


__all__ = ["definition", "references"]
