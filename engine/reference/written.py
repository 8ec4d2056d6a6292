"""How types, expressions and parameters are written: the text of their place in the file, on one line."""

from __future__ import annotations

from collections.abc import Sequence

from engine.dsl import tree
from engine.errors import Span


def written(lines: Sequence[str], span: Span) -> str:
    """The text of a stretch of a file, on one line."""
    found = list(lines[span.line - 1 : span.end_line])
    if not found:
        return ""
    found[-1] = found[-1][: span.end_column - 1]
    found[0] = found[0][span.column - 1 :]
    text = " ".join(" ".join(found).split())
    for bracket in "([{":
        text = text.replace(f"{bracket} ", bracket)
    for bracket in ")]}":
        text = text.replace(f" {bracket}", bracket)
    return text


def head_of(lines: Sequence[str], item: tree.LayerItem) -> str:
    """`trt.slice(x: tensor, *, start: [int] @1) -> tensor`."""
    parameters = []
    starred = False
    for parameter in item.parameters:
        if parameter.attribute and not starred:
            parameters.append("*")
            starred = True
        parameters.append(written(lines, parameter.span))
    return f"{item.name}({', '.join(parameters)}) -> {', '.join(map(str, item.outputs)) or '()'}"


__all__ = ["head_of", "written"]
