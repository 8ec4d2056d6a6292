"""A test line as text, as it is written in a rule."""

from __future__ import annotations

import torch

from engine.dsl import tree
from engine.dtypes import DTYPE_NAMES
from engine.errors import EngineError


def written(test: tree.Test) -> str:
    """``test x: f32[B=2..4, 8], k = 3``: a line that parses to the same test."""
    return f"{'reject' if test.rejects else 'test'} {', '.join(map(_binding, test.bindings))}"


def _binding(binding: tree.Binding) -> str:
    value = binding.value
    if isinstance(value, tree.TensorSpec | tree.ListSpec):
        return f"{binding.name}: {_spec(value)}"
    return f"{binding.name} = {_expression(value)}"


def _spec(spec: tree.TensorSpec | tree.ListSpec | tree.Expr) -> str:
    if isinstance(spec, tree.ListSpec):
        return f"[{', '.join(map(_spec, spec.items))}]"
    if not isinstance(spec, tree.TensorSpec):
        return _expression(spec)
    dims = ", ".join(map(_dim, spec.dims))
    below = "" if spec.below is None else f" < {spec.below}"
    kind = "parameter " if spec.parameter else "const " if spec.const else ""
    form = "expanded " if spec.expanded else "written " if spec.written else ""
    return f"{kind}{form}{spec.dtype}[{dims}]{below}"


def _dim(dim: tree.Dim) -> str:
    if dim.name is None:
        return str(dim.size)
    if dim.range is None:
        return dim.name
    return f"{dim.name}={dim.range[0]}..{dim.range[1]}"


def _expression(expr: tree.Expr) -> str:
    if isinstance(expr, tree.Literal):
        value = expr.value
        if value is None or isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, torch.dtype):
            return DTYPE_NAMES[value]
        return f'"{value}"' if isinstance(value, str) else repr(value)
    if isinstance(expr, tree.ListOf):
        return f"[{', '.join(_expression(item) for item in expr.items)}]"  # type: ignore[arg-type]
    if isinstance(expr, tree.Name | tree.Upper):
        return expr.name
    if isinstance(expr, tree.Unary):
        return f"{expr.operator}{' ' if expr.operator == 'not' else ''}{_expression(expr.value)}"
    if isinstance(expr, tree.Binary):
        return f"({_expression(expr.left)} {expr.operator} {_expression(expr.right)})"
    if isinstance(expr, tree.Call):
        arguments = ", ".join(_expression(item) for item in expr.arguments)  # type: ignore[arg-type]
        return f"{_expression(expr.function)}({arguments})"
    raise EngineError(f"{expr.span}: a test line cannot hold a {type(expr).__name__}")


__all__ = ["written"]
