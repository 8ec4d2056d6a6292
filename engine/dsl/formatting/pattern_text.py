"""Patterns of syntax trees as text, on one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from engine.dsl import tree
from engine.dsl.checks import sorts
from engine.dsl.vocabulary import dtype_names


def written_pattern(pattern: Any) -> str:
    """A pattern as it is written in a rule."""
    match pattern:
        case tree.OpPattern():
            opening, closing = "{}" if pattern.unordered else "()"
            text = f"{'&' * pattern.shared}{pattern.op}{'?' * pattern.optional}"
            text += f"{opening}{_list(pattern.arguments)}{closing}"
            if pattern.output is not None:
                text += f".{pattern.output}"
            if pattern.outputs is not None:
                text += f" -> ({', '.join(name or '_' for name in pattern.outputs)})"
            return text
        case tree.Named():
            return f"{pattern.name}({_list(pattern.arguments)})"
        case tree.Alternatives():
            return f"({' | '.join(map(written_pattern, pattern.items))})"
        case tree.Alternative():
            return written_pattern(pattern.pattern) + (f" as {pattern.name}" if pattern.name is not None else "")
        case tree.TuplePattern():
            return f"({_list(pattern.roots)})"
        case tree.ListPattern():
            return f"[{_list(pattern.items)}]"
        case tree.Keyword():
            return f"{pattern.name}={written_pattern(pattern.value)}"
        case tree.Capture():
            return pattern.name if pattern.type is None else f"{pattern.name}: {sorts.show(pattern.type)}"
        case tree.Rest():
            return f"..{pattern.name or ''}"
        case tree.Wildcard():
            return "_"
        case tree.Approximate():
            return f"~{pattern.value}"
        case tree.Literal():
            return _literal(pattern.value)
    return str(pattern.name)


def _list(patterns: Iterable[Any]) -> str:
    return ", ".join(map(written_pattern, patterns))


def _literal(value: object) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return str(value) if isinstance(value, int | float) else dtype_names()[value]  # type: ignore[index]


def ops_of(item: tree.PatternItem, items: Mapping[str, tree.PatternItem]) -> list[str]:
    """The ops that what a named pattern stands for can end in, as written; none for a parameter."""
    found: dict[str, None] = {}
    waiting: list[Any] = [item.body]
    while waiting:
        match waiting.pop(0):
            case tree.OpPattern(op=op) if "." in op:
                found[op] = None
            case tree.Alternatives(items=sides):
                waiting += [side.pattern for side in sides]
            case tree.Named(name=name) if name in items:
                waiting.append(items[name].body)
    return list(found)


__all__ = ["ops_of", "written_pattern"]
