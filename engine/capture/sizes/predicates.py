"""Relations between sizes as text that a user can read."""

from __future__ import annotations

import ast
from collections.abc import Mapping

import sympy
from torch.utils._sympy.printers import PythonPrinter

from engine.graph.symbolic.size_functions import Function, function_of


class _Words(PythonPrinter):  # type: ignore[misc]
    """Prints symbols as what they are the size of."""

    def __init__(self, names: Mapping[sympy.Symbol, str]) -> None:
        super().__init__()
        self._names = names

    def _print_Symbol(self, expr: sympy.Symbol) -> str:
        return self._names.get(expr, str(expr))

    def _print_Float(self, expr: sympy.Float) -> str:
        return repr(float(expr))

    def _print_ToFloat(self, expr: sympy.Expr) -> str:
        return f"float({self.doprint(expr.args[0])})"


def text_of(expression: sympy.Basic, names: Mapping[sympy.Symbol, str]) -> str:
    """An expression as Python, with ``x.shape[0]`` and the like instead of symbols."""
    text = str(_Words(names).doprint(expression))
    try:
        # Without parentheses that are not needed.
        return ast.unparse(ast.parse(text, mode="eval"))
    except SyntaxError:
        return text


__all__ = ["Function", "function_of", "text_of"]
