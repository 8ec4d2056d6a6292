"""A rule to begin with for an op that no rule has as its root: its schema as a pattern, and a test of the model's own.

Every argument has a name, also one that has its default here: a rule that does not mention it would not apply where
another node gives it.  What it emits is left open, so that it cannot be used before somebody has said it.
"""

from __future__ import annotations

import re
from typing import Any

import sympy
import torch
from torch import fx

from engine.dsl import operators
from engine.dsl.vocabulary import UNSAID
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
        if given is None and value == argument.default:
            positional = False  # no line can give it, so the rule is for its default
            continue
        keyword = argument.keyword_only or not positional
        bound = "_" if given is None else name
        pattern.append(f"{argument.name}={bound}" if keyword else bound)
        if given is not None:
            tests.append(f"{name}{given}")
    rest = ", ".join(pattern)
    name = op.split(".")[1].strip("_") or "mine"
    emitted = _emitted(len(operator.returns))
    return (
        f'convert {name} "What it computes."\n'
        f"  match {op.removesuffix('.default')}({rest})\n"
        f"  emit  {emitted}  # layers (`trt.*`); or ops (`aten.*`), and `lower` instead of `convert`\n"
        f"  test  {', '.join(tests)}\n"
    )


def _emitted(outputs: int) -> str:
    """What stands for the right side: a name for each output, which the loader knows."""
    if outputs <= 1:
        return UNSAID
    return f"({', '.join(f'{UNSAID}_{output}' for output in range(outputs))})"


def _spec(mirror: Mirror, value: Any, named: dict[Any, str]) -> str | None:
    """What a test line says of an argument, with `:` or `=`; None where it cannot."""
    if isinstance(value, Value):
        fake = mirror.fake(value)
        return f": {_tensor(mirror, value, named)}" if isinstance(fake, torch.Tensor) else None
    if isinstance(value, tuple) and value and all(isinstance(item, Value) for item in value):
        return f": [{', '.join(_tensor(mirror, item, named) for item in value)}]"
    if isinstance(value, tuple):
        if any(isinstance(item, Value) for item in value):
            return None
        items = [_number(mirror, item, named) if isinstance(item, sympy.Basic) else _literal(item) for item in value]
        return f" = [{', '.join(items)}]"
    if isinstance(value, sympy.Basic):
        return f" = {_number(mirror, value, named)}"
    if value is None or isinstance(value, bool | int | float | str):
        return f" = {_literal(value)}"
    if isinstance(value, torch.dtype) and value in DTYPE_NAMES:
        return f" = {DTYPE_NAMES[value]}"
    return None


def _number(mirror: Mirror, size: sympy.Basic, named: dict[Any, str]) -> str:
    """A number that is known only when the model runs: of the sizes above it, or else the smallest it can be."""
    if size in named:
        return named[size]
    return str(mirror.sizes.range(size)[0] or 0)


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
