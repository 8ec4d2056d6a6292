"""Patterns: what the left side of a rule looks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from engine.dsl.tree.expressions import Approximate, Keyword, Literal, Qualified, Upper
from engine.dsl.tree.node import Node
from engine.dsl.tree.types import Type


@dataclass(frozen=True, slots=True)
class Capture(Node):
    """``x``, or ``x: const floating[O, ..]``: binds an argument."""

    name: str
    type: Type | None = None


@dataclass(frozen=True, slots=True)
class Wildcard(Node):
    """``_``: exactly one argument, whatever it is."""


@dataclass(frozen=True, slots=True)
class Rest(Node):
    """``..`` or ``..xs``: the remaining arguments or list elements."""

    name: str | None = None


@dataclass(frozen=True, slots=True)
class ListPattern(Node):
    """``[a, ..rest]``: at most one ``Rest``."""

    items: tuple[Pattern | Rest, ...]


@dataclass(frozen=True, slots=True)
class OpPattern(Node):
    """``&aten.add.Tensor?(x, alpha=2)``, ``aten.mul.Tensor{x, 0.5}``, ``aten.max.dim(x, d) -> (v, i)``."""

    op: str  # as written; a family variable is upper case
    arguments: tuple[Pattern | Keyword | Rest, ...]  # a Keyword's value is a Pattern here
    shared: bool = False
    optional: bool = False
    unordered: bool = False
    output: int | None = None
    outputs: tuple[str | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class TuplePattern(Node):
    """``(op(..), op(..))``: a pattern with several roots."""

    roots: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Named(Node):
    """``scores(q, k)``: a named pattern with what stands for its parameters; an op may (``aten.cos``)."""

    name: str
    arguments: tuple[Pattern | Qualified, ...]


@dataclass(frozen=True, slots=True)
class Alternative(Node):
    """One side of ``(a | b as name)``; ``name`` is true where this side fits, and false otherwise."""

    pattern: Pattern
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Alternatives(Node):
    """``(a | b | c)``: the first that fits."""

    items: tuple[Alternative, ...]


Pattern: TypeAlias = (
    OpPattern
    | Capture
    | Wildcard
    | Literal
    | Approximate
    | Upper
    | ListPattern
    | TuplePattern
    | Rest
    | Named
    | Alternatives
)


__all__ = [
    "Alternative",
    "Alternatives",
    "Capture",
    "ListPattern",
    "Named",
    "OpPattern",
    "Pattern",
    "Rest",
    "TuplePattern",
    "Wildcard",
]
