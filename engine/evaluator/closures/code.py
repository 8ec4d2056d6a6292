"""What expressions are compiled to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.dsl import tree

if TYPE_CHECKING:
    from engine.evaluator.context import Context

Names: TypeAlias = dict[str, Any]
"""The names in scope, with their values."""

Code: TypeAlias = "Callable[[Names, Context], Any]"
"""An expression: its value for the names in scope.

Raises:
    Failed: the rule cannot apply, with the innermost place that is known.
    Raised: something raised an exception of Python, likewise.
"""

Compile: TypeAlias = Callable[[tree.Expr], Code]
"""Gives the code of an expression; the makers of code for each syntax node get it for the parts of theirs."""


def steps_of(expr: tree.Expr) -> int:
    """What an expression counts each time that it is evaluated again: the expressions written in it."""
    return sum(isinstance(part, tree.Expr) for part in tree.walk(expr))


__all__ = ["Code", "Compile", "Names", "steps_of"]
