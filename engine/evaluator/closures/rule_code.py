"""What a rule does once its pattern fits: its guards and lets in order, and its right side."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import sympy

from engine.dsl import tree
from engine.dsl.rule import Rule
from engine.evaluator.builtins import describe
from engine.evaluator.closures.code import Code, Compile, Names
from engine.evaluator.closures.scopes import Lazy, bind, known
from engine.evaluator.failures import Failed
from engine.evaluator.undecided import found, undecided

if TYPE_CHECKING:
    from engine.evaluator.context import Context

Step: TypeAlias = "Callable[[Names, Context], None]"
"""A ``let`` that binds its names, or a guard that raises :class:`Failed` where it does not hold."""


class CompiledRule:
    """A rule, ready to be applied.

    Attributes:
        steps: its ``let`` and ``when`` clauses in order.
        lets: those of them that are evaluated when they are read.
        emit: its right side.
        decreases: its measure, if it has one.
        asks_result: whether it reads ``result``, the value that it replaces.
    """

    __slots__ = ("asks_result", "decreases", "emit", "lets", "steps")

    def __init__(self, rule: Rule, compile: Compile) -> None:
        self.steps = tuple(_step(step, compile) for step in rule.steps)
        self.lets = tuple(made for made, step in zip(self.steps, rule.steps, strict=True) if _is_lazy(step))
        self.emit = compile(rule.emit)
        self.decreases: Code | None = None if rule.decreases is None else compile(rule.decreases)
        parts = tree.walk((*rule.steps, rule.emit, rule.decreases))
        self.asks_result = any(isinstance(part, tree.Name) and part.name == "result" for part in parts)


def _is_lazy(step: tree.Let | tree.Guard) -> bool:
    return isinstance(step, tree.Let) and step.target.name is not None


def _step(step: tree.Let | tree.Guard, compile: Compile) -> Step:
    code = compile(step.value)
    if isinstance(step, tree.Let):
        return _let(step.target.name, code) if step.target.name is not None else _taken_apart(step, code)
    return _guard(step, code) if step.target is None else _binding_guard(step, step.target, code)


def _let(name: str, value: Code) -> Step:
    """``let name = value``."""

    def run(names: Names, context: Context) -> None:
        names[name] = Lazy(value, names, context)

    return run


def _taken_apart(let: tree.Let, value: Code) -> Step:
    """``let (a, b) = value``."""

    def run(names: Names, context: Context) -> None:
        given = value(names, context)
        if not bind(let.target, given, names):
            raise Failed(f"{describe(given)} cannot be bound to its names", let.span)

    return run


def _binding_guard(guard: tree.Guard, target: tree.Target, value: Code) -> Step:
    """``when target := value``."""

    def run(names: Names, context: Context) -> None:
        given = value(names, context)
        if given is None or not bind(target, given, names):
            raise Failed(f"{describe(given)} does not fit `{guard.text}`", guard.span)

    return run


def _guard(guard: tree.Guard, test: Code) -> Step:
    """``when test``."""

    def run(names: Names, context: Context) -> None:
        value = test(names, context)
        if isinstance(value, sympy.Basic):
            settled = context.sizes.decide(value)
            if settled is None:
                about = undecided(guard.value, value, known(names), context.sizes)
                raise Failed(f"`{guard.text}` is not known when compiling: {about}", guard.span)
            value = settled
        if not value:
            raise Failed(
                f"`{guard.text}` is false", guard.span, lambda: found(guard.value, known(names), context.sizes)
            )

    return run


__all__ = ["CompiledRule", "Step"]
