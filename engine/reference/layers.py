"""The TensorRT layers of the catalogue: operands, attributes, enum members, what may arrive at run time, since when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from engine.dsl import tree
from engine.dsl.bindings import Bindings, bindings_for
from engine.dsl.source import builtin_directory
from engine.dsl.syntax.parser import parse
from engine.errors import TensorRTNotFound
from engine.reference.comments import comment_above
from engine.reference.entry import Entry
from engine.reference.written import head_of, written
from engine.tensorrt import Capabilities, capabilities

_COLUMNS = ("parameter", "kind", "type", "default", "at run time")


def layers(path: Path | None = None) -> dict[str, Entry]:
    """Every layer that a file declares, by name; by default those of the catalogue.

    Of a layer that is declared for several versions, the last one.
    """
    file = path or builtin_directory() / "layers.rules"
    text = file.read_text(encoding="utf-8")
    return layers_of(parse(text, str(file)))


def layers_of(file: tree.File) -> dict[str, Entry]:
    """Every layer that a parsed file declares, by name."""
    lines = file.text.split("\n")
    here, bindings = _installed()
    return {item.name: _entry(item, lines, here, bindings) for item in file.layers}


def _installed() -> tuple[Capabilities | None, Bindings | None]:
    try:
        here = capabilities()
    except TensorRTNotFound:
        return None, None
    return here, bindings_for(here)


def _entry(item: tree.LayerItem, lines: Sequence[str], here: Capabilities | None, bindings: Bindings | None) -> Entry:
    rows = [_row(parameter, lines) for parameter in item.parameters]
    notes = [f"Gives {_outputs(item, lines)}."] if item.gives else []
    if item.unless is not None:
        notes.append(f"Not where `{written(lines, item.unless.span)}`: TensorRT builds an engine there that is wrong.")
    if item.apart is not None:
        apart, chain = item.apart, ", from what ".join(f"`{written(lines, m.span)}` made" for m in item.apart.layers)
        notes.append(
            f"Where `{written(lines, apart.condition.span)}`, an operand `{apart.name}` that {chain} is given as "
            f"`{written(lines, apart.instead.span)}`: TensorRT builds an engine that is wrong where nothing is between."
        )
    if item.accumulates is not None:
        notes.append(f"Keeps sums in `{written(lines, item.accumulates.span)}`.")
    for enum in _enums(item):
        members = bindings.members(enum) if bindings is not None else None
        if members is not None:
            notes.append(f"`{enum}`: {', '.join(f'`{member}`' for member in sorted(members))}.")
    notes.append(f"Added by `{written(lines, item.via.span)}`{_versions(item)}.")
    return Entry(
        "layer", item.name, head_of(lines, item), comment_above(lines, item.span.line), _COLUMNS, tuple(rows),
        tuple(notes), item.span,
    )  # fmt: skip


def _row(parameter: tree.Parameter, lines: Sequence[str]) -> tuple[str, ...]:
    kind = "attribute" if parameter.attribute else "operand"
    static = parameter.type is not None and parameter.type.modifier == "static"
    type_ = "" if parameter.type is None else written(lines, parameter.type.span).removeprefix("static ")
    default = "" if parameter.default is None else written(lines, parameter.default.span)
    if parameter.slot is not None:
        arrives = f"input {parameter.slot}" + (", or one size as -1" if parameter.wildcard else "")
    elif static or type_.startswith("weights") or parameter.attribute:
        arrives = "no"
    else:
        arrives = "yes"
    name = parameter.name if parameter.property is None else f"{parameter.name} ({parameter.property})"
    return f"`{name}`", kind, f"`{type_}`", f"`{default}`" if default else "", arrives


def _outputs(item: tree.LayerItem, lines: Sequence[str]) -> str:
    found = []
    for given in item.gives:
        if given is None:
            found.append("a shape and dtype that only TensorRT can tell")
        else:
            shape, dtype = (written(lines, part.span) for part in given)
            found.append(f"shape `{shape}` and dtype `{dtype}`" if shape != "none" else f"dtype `{dtype}`")
    return "; ".join(found)


def _enums(item: tree.LayerItem) -> Iterable[str]:
    names = [name for one in item.parameters if one.type is not None for name in one.type.names if name[:1].isupper()]
    return dict.fromkeys(names)


def _versions(item: tree.LayerItem) -> str:
    since = f", since TensorRT {item.since}" if item.since else ""
    return since + (f", until {item.until}" if item.until else "")


__all__ = ["layers", "layers_of"]
