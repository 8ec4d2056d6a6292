"""Arguments and places of a graph in words, for the report of why a pattern does not match."""

from __future__ import annotations

from typing import Any

import sympy
import torch

from engine.dtypes import DTYPE_NAMES
from engine.graph.mirror import Mirror, Value
from engine.matcher.paths import Frame, Kind


def show(mirror: Mirror, value: Any) -> str:
    """An argument for a message, e.g. ``%relu: f32[s27, 8]`` or ``dim s27 in [2, 99]``."""
    if isinstance(value, Value):
        fake = mirror.fake(value) if value.node.op != "output" else None
        text = f"{value!r} = {mirror.op(value.node)}" if value.node.op == "call_function" else repr(value)
        if not isinstance(fake, torch.Tensor):
            return text
        dtype = DTYPE_NAMES.get(fake.dtype, str(fake.dtype).removeprefix("torch."))
        kind = "const " if value.node.op == "get_attr" else ""
        return f"{text}: {kind}{dtype}[{', '.join(map(str, mirror.shape(value)))}]"
    if isinstance(value, tuple):
        return f"[{', '.join(show(mirror, item) for item in value)}]"
    if isinstance(value, sympy.Expr):
        return mirror.sizes.describe(value)
    if isinstance(value, torch.dtype):
        return DTYPE_NAMES.get(value, str(value))
    if isinstance(value, str):
        return f'"{value}"'
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    return str(value)


def place(frame: Frame, path: int) -> str:
    """Where a path leads, in words: ``dim 1 of argument 'weight' of linear_2``."""
    kind, parent, index = frame.table.entries[path]
    if kind is Kind.ROOT:
        value = frame.get(path)
        return value.node.name if isinstance(value, Value) else "another root"
    if kind is Kind.DIM:
        return f"dim {index} of {place(frame, parent)}"
    if kind is Kind.ELEMENT:
        return f"element {index} of {place(frame, parent)}"
    if kind is Kind.OUTPUT:
        return f"output {index} of {place(frame, parent)}"
    owner = frame.get(parent)
    if not isinstance(owner, Value):
        return place(frame, parent)
    if kind is Kind.ARGUMENT:
        schema: Any = getattr(owner.node.target, "_schema", None)
        known = schema is not None and index < len(schema.arguments)
        return (
            f"argument '{schema.arguments[index].name}' of {owner.node.name}"
            if known
            else (f"argument {index} of {owner.node.name}")
        )
    return f"arguments of {owner.node.name}"


__all__ = ["place", "show"]
