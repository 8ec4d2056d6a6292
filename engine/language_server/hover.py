"""What a name stands for, in words."""

from __future__ import annotations

from engine.dsl.vocabulary import dtype_classes, dtypes
from engine.language_server.buffer import Buffer, Word
from engine.language_server.navigation import definition
from engine.language_server.project import Project
from engine.language_server.scope import locals_of
from engine.reference.clauses import clauses
from engine.reference.functions import functions
from engine.reference.ops import op
from engine.reference.written import written


def hover(word: Word, buffer: Buffer, project: Project) -> str | None:
    """Markdown about a name, None where there is nothing to say."""
    text = word.text
    if "." in text:
        entry = project.layers(buffer.path).get(text)
        if entry is not None:
            return entry.markdown()
        described = op(text)
        if described is not None:
            return described.markdown("python")
    item = buffer.item_at(word.span.line)
    line = buffer.code[word.span.line - 1]
    if not line[: word.span.column - 1].strip() and text in clauses():
        return clauses()[text].markdown()
    if item is not None and not word.called and text in locals_of(item):
        place = locals_of(item)[text]
        return f"```rules\n{written(buffer.lines, place)}\n```\n\nBound in `{item.name}`, line {place.line}."
    macro = project.find(text, buffer.path) if word.called or text not in functions() else None
    if macro is not None:
        where = f"\n\n{macro.span.file}:{macro.span.line}" if macro.span is not None else ""
        return f"{macro.markdown()}{where}"
    if text in functions():
        return functions()[text].markdown()
    if text in dtypes():
        return f"`{text}`: the dtype `{dtypes()[text]}`"
    if text in dtype_classes():
        return f"`{text}`: a tensor of one of {', '.join(sorted(dtype_classes()[text]))}"
    found = definition(word, buffer, project)
    if found is not None:
        rule = next((b for b in project.all(buffer.path) if b.path == found.file), None)
        target = None if rule is None else rule.item_at(found.line)
        doc = getattr(target, "doc", "")
        return f"`{text}`: {doc or 'a rule'}\n\n{found.file}:{found.line}"
    enum = _enum(text, buffer, project)
    return clauses()[text].markdown() if enum is None and text in clauses() else enum


def _enum(text: str, buffer: Buffer, project: Project) -> str | None:
    """The enums that have a member of some name."""
    if not text.isupper():
        return None
    notes = {note for entry in project.layers(buffer.path).values() for note in entry.notes if f"`{text}`" in note}
    enums = sorted(note.partition(":")[0] for note in notes if note.startswith("`") and ": `" in note)
    return f"`{text}`: a member of {', '.join(enums)}" if enums else None


__all__ = ["hover"]
