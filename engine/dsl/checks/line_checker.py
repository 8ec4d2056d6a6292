"""Checking ``test`` and ``reject`` lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.dsl import tree
from engine.dsl.checks.expression_checker import ExpressionChecker
from engine.dsl.diagnostics import Problems
from engine.dsl.vocabulary import dtypes, suggestion


def check_line(
    test: tree.Test,
    bound: Mapping[str, str | None],
    checker: ExpressionChecker,
    macros: Mapping[str, tree.Macro],
    problems: Problems,
) -> None:
    """Check what a line gives for the names that the pattern binds.

    Args:
        bound: these names, each with its sort.
        checker: of the rule's expressions.
    """
    seen: set[str] = set()
    dims: set[str] = set()
    ranged = (item for item in tree.walk(test) if isinstance(item, tree.Dim) and item.range)
    sizes = {dim.name: "int" for dim in ranged if dim.name is not None}
    word = "reject" if test.rejects else "test"
    for binding in test.bindings:
        if binding.name not in bound:
            captured = sorted(name for name in bound if "." not in name)
            hint = suggestion(binding.name, captured, f"it captures {', '.join(captured) or 'nothing'}")
            problems.report(f"`{word}` binds `{binding.name}`, which the pattern does not capture", binding.span, hint)
        if binding.name in seen:
            problems.report(f"`{binding.name}` is bound twice", binding.span)
        same = binding.value.name if isinstance(binding.value, tree.Name) else None
        if same in seen and same != binding.name:
            continue  # the value of an operand before it, once more
        seen.add(binding.name)
        if isinstance(binding.value, tree.Index) and _is_dtype(binding.value.value):
            problems.report(
                "a value behind `=` is no tensor",
                binding.span,
                f"of a tensor write `{binding.name}: f32[2, 3]`, with `:`",
            )
        elif bound.get(binding.name) == "tensor" and _is_dtype(binding.value):
            problems.report(
                f"`{binding.name}` is a tensor and no dtype",
                binding.span,
                f"write `{binding.name}: f32[2, 3]`, with `:`",
            )
        elif isinstance(binding.value, tree.TensorSpec | tree.ListSpec):
            _check_spec(binding.value, dims, problems)
        elif bound.get(binding.name) == "graph":
            _check_graph(binding.value, macros, problems)
        elif isinstance(binding.value, tree.ListOf) and any(_is_macro(item, macros) for item in binding.value.items):
            for graph in binding.value.items:
                _check_graph(graph, macros, problems)
        else:
            checker.sort(binding.value, dict(sizes))


def _is_dtype(value: Any) -> bool:
    return isinstance(value, tree.Name) and value.name in dtypes()


def _check_graph(value: Any, macros: Mapping[str, tree.Macro], problems: Problems) -> None:
    """Check what a test line gives for a graph: a macro of ops."""
    if not _is_macro(value, macros):
        problems.report(
            "a graph of a test line is the name of a macro of ops",
            value.span,
            "def doubled(x) = [aten.mul.Tensor(x, 2)], and then: .. = doubled",
        )


def _is_macro(value: Any, macros: Mapping[str, tree.Macro]) -> bool:
    return isinstance(value, tree.Name) and value.name in macros


def _check_spec(spec: tree.TensorSpec | tree.ListSpec | tree.Literal, dims: set[str], problems: Problems) -> None:
    """Check a test input; ``dims`` are the names that stood for a dim so far in the test."""
    if isinstance(spec, tree.ListSpec):
        for item in spec.items:
            _check_spec(item, dims, problems)
    elif isinstance(spec, tree.TensorSpec):
        if spec.dtype not in dtypes():
            hint = suggestion(spec.dtype, dtypes(), f"dtypes are {', '.join(dtypes())}")
            problems.report(f"unknown dtype `{spec.dtype}`", spec.span, hint)
        for dim in spec.dims:
            if dim.rest or (dim.size is None and dim.range is None and dim.name not in dims):
                problems.report(
                    "a dim of a test input is a number, a range, or a name with a range given before",
                    dim.span,
                    "x: f32[B=2..4, 8], y: f32[B, 1]",
                )
            if dim.name is not None:
                dims.add(dim.name)


__all__ = ["check_line"]
