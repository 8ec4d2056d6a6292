"""What may stand at a place: ops, arguments, layers, attributes, enum members, macros, clauses."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.dsl import operators
from engine.dsl.checks import needs
from engine.dsl.vocabulary import PHASES, RELAXATIONS, SORTS, constants, dtype_classes, dtypes
from engine.language_server.buffer import Buffer
from engine.language_server.project import Project
from engine.language_server.scope import locals_of
from engine.reference.clauses import clauses
from engine.reference.entry import Entry
from engine.reference.functions import functions

_ITEMS = (*PHASES, "def", "pattern", "extern", "layer")


@dataclass(frozen=True, slots=True)
class Proposal:
    """One word that may stand at a place.

    Attributes:
        kind: "op", "layer", "argument", "member", "macro", "pattern", "function", "name", "type", "rule" or "clause".
    """

    label: str
    kind: str
    detail: str = ""
    doc: str = ""


def complete(buffer: Buffer, line: int, column: int, project: Project) -> list[Proposal]:
    """What may stand at a place, for what is written of it so far."""
    before = buffer.before(line, column)
    word = re.search(r"[\w.]*$", before)
    typed = word.group() if word else ""
    head = before[: len(before) - len(typed)]
    proposals = list(_proposals(head, typed, buffer, line, project))
    return list({(one.label, one.kind): one for one in proposals if one.label.startswith(typed)}.values())


def _proposals(head: str, typed: str, buffer: Buffer, line: int, project: Project) -> Iterator[Proposal]:
    if re.search(r"\bover\s+(?:[\w.]+\s*,\s*)*$", head):
        yield from _rules(buffer, project)
        return
    if re.search(r"\brelax\s+(?:\w+\s*,\s*)*$", head):
        yield from (Proposal(word, "name") for word in RELAXATIONS)
        return
    if re.search(r"\bneeds\s+(?:[^\n]*[,\s])?$", head):
        methods = (re.search(r"`add_(\w+)", entry.notes[-1]) for entry in project.layers(buffer.path).values())
        known = {*needs.FEATURES, *(found.group(1) for found in methods if found)}
        features = [*(f"cap.{name}" for name in sorted(known)), *(f"setting.{name}" for name in needs.SETTINGS)]
        yield from (Proposal(word, "name") for word in ("trt", "torch", "rtx", "not", *features))
        return
    if "." in typed:
        yield from _qualified(typed, buffer, project)
        return
    beginning = not head.rpartition("\n")[2].strip()
    if beginning:
        inside = bool(re.match(r"\s*(simplify|lower|convert)\b", head))
        words = clauses()
        yield from (Proposal(w, "clause", words[w].signature, words[w].doc) for w in words if w in _ITEMS or inside)
    call = _call(head)
    if call is not None:
        yield from _arguments(call, head, buffer, project)
    if re.search(r"[\w\]]\s*:\s*(?:const\s+|static\s+|parameter\s+|expanded\s+|written\s+)?(?:\w+\s*\|\s*)*$", head):
        yield from (Proposal(name, "type", "dtype") for name in dtypes())
        yield from (Proposal(name, "type", ", ".join(sorted(dtype_classes()[name]))) for name in dtype_classes())
        yield from (Proposal(name, "type", "sort") for name in sorted(SORTS))
        yield from (Proposal(name, "type", "modifier") for name in ("const", "static", "parameter"))
        return
    if not beginning:
        yield from _values(buffer, line, project)


def _values(buffer: Buffer, line: int, project: Project) -> Iterator[Proposal]:
    item = buffer.item_at(line)
    if item is not None:
        yield from (Proposal(name, "name") for name in locals_of(item))
    yield Proposal("result", "name", "the matched value")
    yield from _entries(project.macros(buffer.path).values())
    yield from _entries(project.patterns(buffer.path).values())
    yield from _entries(functions().values())
    yield from (Proposal(name, "name") for name in ("true", "false", "none", *constants()))
    yield from (Proposal(name, "op", "namespace") for name in ("aten", "trt", "higher_order", "host"))
    yield from _entries(project.layers(buffer.path).values())


def _entries(entries: Iterable[Entry]) -> Iterator[Proposal]:
    yield from (Proposal(entry.name, entry.kind, entry.signature, entry.doc) for entry in entries)


def _rules(buffer: Buffer, project: Project) -> Iterator[Proposal]:
    for other in project.all(buffer.path):
        own = other.path == buffer.path
        # Reading the names needs no tree of the file.
        for name in re.findall(r"^\s*(?:simplify|lower|convert)\s+(\w+)", other.text, re.MULTILINE):
            yield Proposal(name if own else f"{Path(other.path).stem}.{name}", "rule")


def _qualified(typed: str, buffer: Buffer, project: Project) -> Iterator[Proposal]:
    namespace = typed.partition(".")[0]
    if namespace == "trt":
        yield from _entries(project.layers(buffer.path).values())
    elif namespace == "host":
        externs = [extern for other in project.all(buffer.path) for extern in other.file.externs]
        yield from (Proposal(extern.name, "function") for extern in externs)
    else:
        yield from (Proposal(name, "op") for name in _ops(namespace) if name.startswith(typed))


@functools.cache
def _ops(namespace: str) -> tuple[str, ...]:
    """The ops of a namespace as rules write them; those that write to their operands are left out."""
    operators.register(namespace)
    found = set()
    for full in torch._C._dispatch_get_all_op_names():
        name = full.replace("::", ".")
        packet, _, overload = full.partition("::")[2].partition(".")
        inner = packet.startswith("__") and packet.endswith("__")
        if name.startswith(f"{namespace}.") and not overload.endswith("out") and (inner or not packet.endswith("_")):
            found.add(name.removesuffix(".default"))
    return tuple(sorted(found))


def _call(head: str) -> tuple[str, str] | None:
    """The name of the innermost call that is open at the end of a text, and what is written of its arguments."""
    depth = 0
    for index in range(len(head) - 1, -1, -1):
        letter = head[index]
        if letter in ")]}":
            depth += 1
        elif letter in "([{":
            if depth == 0:
                name = re.search(r"[A-Za-z_][\w.]*\??$", head[:index])
                return (name.group().removesuffix("?"), head[index + 1 :]) if name and letter != "[" else None
            depth -= 1
    return None


def _arguments(call: tuple[str, str], head: str, buffer: Buffer, project: Project) -> Iterator[Proposal]:
    name, written = call
    value = re.search(r"(\w+)\s*=\s*$", written)
    layer = project.layers(buffer.path).get(name)
    if layer is not None:
        rows = {row[0].strip("`").split()[0].rstrip("`"): row for row in layer.details}
        if value and value.group(1) in rows:
            yield from _members(rows[value.group(1)][2].strip("`"), layer)
        elif not value:
            for own, row in rows.items():
                if row[1] == "attribute":
                    yield Proposal(f"{own}=", "argument", row[2].strip("`"), f"default {row[3]}" if row[3] else "")
        return
    operator = operators.find(name) if "." in name else None
    if operator is not None and not value:
        for argument in operator.arguments:
            default = "" if argument.default is ... else f"default {argument.default}"
            yield Proposal(f"{argument.name}=", "argument", argument.kind, default)


def _members(type_: str, layer: Entry) -> Iterator[Proposal]:
    """The members of the enums in the type of an attribute."""
    for enum in re.findall(r"[A-Z]\w*", type_):
        for note in layer.notes:
            if note.startswith(f"`{enum}`: "):
                yield from (Proposal(name, "member", enum) for name in re.findall(r"`(\w+)`", note.partition(": ")[2]))
    if type_.startswith("bool"):
        yield from (Proposal(word, "member", "bool") for word in ("true", "false"))
    if type_.startswith("dtype"):
        yield from (Proposal(word, "member", "dtype") for word in dtypes())


__all__ = ["Proposal", "complete"]
