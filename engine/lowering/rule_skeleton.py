"""A rule to begin with for an op that no rule has as its root: its schema as a pattern, and a test of the model's own.

What it emits is left open, so that it cannot be used before somebody has said it.
"""

from __future__ import annotations

import re
from typing import Any

import sympy
import torch
from torch import fx

from engine.dsl import operators
from engine.dtypes import DTYPE_NAMES
from engine.graph.mirror import Mirror, Value


def skeleton(mirror: Mirror, node: fx.Node) -> str:
    """The text of a rule for a node's op, with a ``test`` line of the node's own shapes."""
    op = mirror.op(node)
    operator = operators.find(op)
    if operator is None:
        return ""
    pattern: list[str] = []
    tests: list[str] = []
    named: dict[Any, str] = {}
    positional = True
    for argument, value in zip(operator.arguments, mirror.arguments(node), strict=False):
        name = re.sub(r"\W", "_", argument.name).lower()
        given = _spec(mirror, value, named)
        if value == argument.default or (given is None and argument.optional):
            positional = False
            continue
        keyword = argument.keyword_only or not positional
        bound = "_" if given is None else name
        pattern.append(f"{argument.name}={bound}" if keyword else bound)
        if given is not None:
            tests.append(f"{name}{given}")
    rest = ", ".join(pattern)
    name = op.split(".")[1].strip("_") or "mine"
    return (
        f'convert {name} "What it computes."\n'
        f"  match {op.removesuffix('.default')}({rest})\n"
        f"  emit  WHAT_IT_COMPUTES  # layers (`trt.*`); or ops (`aten.*`), and `lower` instead of `convert`\n"
        f"  test  {', '.join(tests)}\n"
    )


def _spec(mirror: Mirror, value: Any, named: dict[Any, str]) -> str | None:
    """What a test line says of an argument, with `:` or `=`; None where it cannot."""
    if isinstance(value, Value):
        fake = mirror.fake(value)
        return f": {_tensor(mirror, value, named)}" if isinstance(fake, torch.Tensor) else None
    if isinstance(value, tuple) and value and all(isinstance(item, Value) for item in value):
        return f": [{', '.join(_tensor(mirror, item, named) for item in value)}]"
    if isinstance(value, tuple):
        return None if any(isinstance(item, Value | sympy.Basic) for item in value) else f" = {_literal(list(value))}"
    if value is None or isinstance(value, bool | int | float | str):
        return f" = {_literal(value)}"
    if isinstance(value, torch.dtype) and value in DTYPE_NAMES:
        return f" = {DTYPE_NAMES[value]}"
    return None


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _tensor(mirror: Mirror, value: Value, named: dict[Any, str]) -> str:
    dtype = mirror.fake(value).dtype
    dims = ", ".join(_dim(mirror, size, named) for size in mirror.shape(value))
    const = "const " if mirror.is_const(value) else ""
    return f"{const}{DTYPE_NAMES.get(dtype, 'f32')}[{dims}]"


def _dim(mirror: Mirror, size: Any, named: dict[Any, str]) -> str:
    """A size of a test line: a number, or a name with its range where it is dynamic."""
    if isinstance(size, int):
        return str(size)
    if size in named:
        return named[size]
    named[size] = chr(ord("A") + len(named)) if len(named) < 26 else f"D{len(named)}"
    low, high = mirror.sizes.range(size)
    low = max(low or 1, 1)
    return f"{named[size]}={low}..{min(high or low + 7, low + 62)}"


__all__ = ["skeleton"]
