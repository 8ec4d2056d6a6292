"""Expressions: what guards, lets, right sides and macros compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from engine.dsl.tree.node import Node

if TYPE_CHECKING:
    from engine.dsl.tree.patterns import Pattern


@dataclass(frozen=True, slots=True)
class Literal(Node):
    """A number, a string, ``true``, ``false``, ``none`` or a dtype (a ``torch.dtype``)."""

    value: object


@dataclass(frozen=True, slots=True)
class Approximate(Node):
    """``~0.7978``: a float within a relative 1e-6."""

    value: float


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A variable, a macro or a builtin function."""

    name: str


@dataclass(frozen=True, slots=True)
class Upper(Node):
    """An upper-case token: a family variable, a bound dimension or an enum member."""

    name: str


@dataclass(frozen=True, slots=True)
class Qualified(Node):
    """A dotted name: an op (``aten.add.Tensor``), a layer (``trt.slice``), a host function or ``cap.x``."""

    name: str


@dataclass(frozen=True, slots=True)
class Splat(Node):
    """``..xs`` inside a list or an argument list."""

    value: Expr


@dataclass(frozen=True, slots=True)
class Keyword(Node):
    """``name=value`` inside an argument list."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Call(Node):
    """``function(arguments)``; arguments are expressions, ``Keyword`` or ``Splat``."""

    function: Expr
    arguments: tuple[Expr | Keyword | Splat, ...]


@dataclass(frozen=True, slots=True)
class Index(Node):
    """``value[index]``."""

    value: Expr
    index: Expr


@dataclass(frozen=True, slots=True)
class Slice(Node):
    """``value[start:stop]``."""

    value: Expr
    start: Expr | None
    stop: Expr | None


@dataclass(frozen=True, slots=True)
class Field(Node):
    """``value.1``: an output of a multi-output call, or an item of a tuple."""

    value: Expr
    index: int


@dataclass(frozen=True, slots=True)
class Unary(Node):
    """``-x`` or ``not x``."""

    operator: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """Arithmetic ``+ - * / // % ++``, comparison ``== != < <= > >=``, ``in``, ``not in``, ``and``, ``or``."""

    operator: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Is(Node):
    """``value is pattern`` or ``value is not pattern``; a pattern is an op or a literal."""

    value: Expr
    pattern: Pattern
    negated: bool


@dataclass(frozen=True, slots=True)
class Conditional(Node):
    """``then if test else otherwise``."""

    test: Expr
    then: Expr
    otherwise: Expr


@dataclass(frozen=True, slots=True)
class ListOf(Node):
    """``[a, ..b, c]``."""

    items: tuple[Expr | Splat, ...]


@dataclass(frozen=True, slots=True)
class TupleOf(Node):
    """``(a, b)``."""

    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Target(Node):
    """What a ``let``, a ``:=`` guard or a comprehension binds: a name, ``_``, or a list of targets.

    ``listed`` targets are written ``[(k, i)]`` and match a list of exactly that length.
    """

    name: str | None = None
    items: tuple[Target, ...] | None = None
    listed: bool = False


@dataclass(frozen=True, slots=True)
class Comprehension(Node):
    """``[value for target in source if test]``; also the bare form inside a call: ``all(v > 0 for v in xs)``."""

    value: Expr
    target: Target
    source: Expr
    test: Expr | None


Expr: TypeAlias = (
    Literal
    | Approximate
    | Name
    | Upper
    | Qualified
    | Call
    | Index
    | Slice
    | Field
    | Unary
    | Binary
    | Is
    | Conditional
    | ListOf
    | TupleOf
    | Comprehension
)


__all__ = [
    "Approximate",
    "Binary",
    "Call",
    "Comprehension",
    "Conditional",
    "Expr",
    "Field",
    "Index",
    "Is",
    "Keyword",
    "ListOf",
    "Literal",
    "Name",
    "Qualified",
    "Slice",
    "Splat",
    "Target",
    "TupleOf",
    "Unary",
    "Upper",
]
