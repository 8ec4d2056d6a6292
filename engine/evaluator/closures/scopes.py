"""Names: what they stand for, and how they are bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.dsl import tree
from engine.dsl.rule import EnumToken, OpName
from engine.dsl.vocabulary import constants
from engine.evaluator.closures.code import Code, Compile, Names
from engine.evaluator.failures import Failed, located
from engine.evaluator.op_calls import resolve

if TYPE_CHECKING:
    from engine.evaluator.context import Context


class Lazy:
    """A ``let`` that is evaluated when its name is first read, so that unused branches cost and fail nothing."""

    __slots__ = ("code", "context", "names", "value")

    def __init__(self, code: Code, names: Names, context: Context) -> None:
        self.code = code
        self.names = names
        self.context = context
        self.value: Any = self

    def force(self) -> Any:
        """Its value."""
        if self.value is self:
            self.value = self.code(self.names, self.context)
        return self.value


def known(names: Names) -> Names:
    """The names with their values, without those that nothing has read yet."""
    named = ((name, item.value if isinstance(item, Lazy) else item) for name, item in names.items())
    return {name: item for name, item in named if not isinstance(item, Lazy)}


def bind(target: tree.Target, value: Any, names: Names) -> bool:
    """Bind a target to a value; False when the value has another structure."""
    if target.items is None:
        if target.name not in (None, "_"):
            names[target.name] = value  # type: ignore[index]
        return True
    if not isinstance(value, list | tuple) or len(value) != len(target.items):
        return False
    return all(bind(item, part, names) for item, part in zip(target.items, value, strict=True))


def literal(expr: tree.Literal | tree.Approximate, compile: Compile) -> Code:
    """A number, a string, a dtype, a truth or ``none``."""
    value = expr.value
    return lambda names, context: value


def name(expr: tree.Name, compile: Compile) -> Code:
    """A captured name, a ``let``, a parameter, or a constant of the language such as ``pi`` or ``f32``."""
    key, span, vocabulary = expr.name, expr.span, constants()
    if key in vocabulary:
        constant = vocabulary[key]

        def shadowed(names: Names, context: Context) -> Any:
            value = names.get(key, constant)
            return value.force() if type(value) is Lazy else value

        return shadowed

    def bound(names: Names, context: Context) -> Any:
        try:
            value = names[key]
        except KeyError:
            raise Failed(f"`{key}` is not bound on this branch of the pattern", span) from None
        return value.force() if type(value) is Lazy else value

    return bound


def upper(expr: tree.Upper, compile: Compile) -> Code:
    """A family variable, a bound dimension, or else an enum member."""
    key, token = expr.name, EnumToken(expr.name)
    return lambda names, context: names.get(key, token)


def qualified(expr: tree.Qualified, compile: Compile) -> Code:
    """An op as a value."""
    op, span = expr.name, expr.span

    def code(names: Names, context: Context) -> OpName:
        try:
            return OpName(resolve(op)[0])
        except Exception as error:
            raise located(error, span)

    return code


__all__ = ["Lazy", "bind", "known", "literal", "name", "qualified", "upper"]
