"""Compiling the expressions of rules to closures of Python, each once.

There is one maker of code for each syntax node.  Whatever does not depend on the match is done by it: which function
an operator is, which code the parts have, what is a constant of the language.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from engine.dsl import tree
from engine.dsl.rule import Layer, Rule
from engine.evaluator.closures import calls, choices, operations, scopes, sequences
from engine.evaluator.closures.calls import CompiledMacro
from engine.evaluator.closures.code import Code, Compile
from engine.evaluator.closures.layer_calls import CompiledLayer
from engine.evaluator.closures.rule_code import CompiledRule

_MAKERS: dict[type, Callable[[Any, Compile], Code]] = {
    tree.Literal: scopes.literal,
    tree.Approximate: scopes.literal,
    tree.Name: scopes.name,
    tree.Upper: scopes.upper,
    tree.Qualified: scopes.qualified,
    tree.Call: calls.call,
    tree.Index: sequences.index,
    tree.Slice: sequences.slice_of,
    tree.Field: sequences.field,
    tree.Unary: operations.unary,
    tree.Binary: operations.binary,
    tree.Is: choices.is_test,
    tree.Conditional: choices.conditional,
    tree.ListOf: sequences.list_of,
    tree.TupleOf: sequences.tuple_of,
    tree.Comprehension: sequences.comprehension,
}

Source = TypeVar("Source", bound=tree.Compilable)
Made = TypeVar("Made")


class Compiler:
    """Gives what is evaluated of expressions, rules, macros and layers.

    What is made is kept with its source, so that it serves all models.
    """

    def code(self, expr: tree.Expr) -> Code:
        """The code of an expression."""
        return self._kept(expr, self._made)

    def rule(self, rule: Rule) -> CompiledRule:
        """The guards, lets and right side of a rule."""
        return self._kept(rule, lambda rule: CompiledRule(rule, self.code))

    def macro(self, macro: tree.Macro) -> CompiledMacro:
        """A macro that can be called."""
        return self._kept(macro, lambda macro: CompiledMacro(macro, self.code))

    def layer(self, layer: Layer) -> CompiledLayer:
        """A layer that can be called."""
        return self._kept(layer, lambda layer: CompiledLayer(layer, self.code))

    def _made(self, expr: tree.Expr) -> Code:
        return _MAKERS[type(expr)](expr, self.code)

    def _kept(self, source: Source, make: Callable[[Source], Made]) -> Made:
        """What was made of ``source``, made when it is first asked for."""
        made: Made | None = getattr(source, "compiled", None)
        if made is None:
            made = make(source)
            object.__setattr__(source, "compiled", made)  # sources are frozen, and this is no part of their value
        return made


__all__ = ["Compiler"]
