"""Clauses, and the items of a file: rules, macros, patterns, layers and host functions."""

from __future__ import annotations

from dataclasses import dataclass

from engine.dsl.tree.expressions import Call, Expr, Literal, Target, Upper
from engine.dsl.tree.node import Node
from engine.dsl.tree.patterns import Pattern
from engine.dsl.tree.types import Dim, Type


@dataclass(frozen=True, slots=True)
class Let(Node):
    """``let target = value``."""

    target: Target
    value: Expr


@dataclass(frozen=True, slots=True)
class Guard(Node):
    """``when test``, or ``when target := value`` (fails if the value is ``none`` or the target does not fit).

    ``text`` is how it is written, for the report of why a rule does not apply.
    """

    value: Expr
    target: Target | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class TensorSpec(Node):
    """A test input: ``const f32[B=2..4, 8]``, ``i64[3] < 10``."""

    dtype: str
    dims: tuple[Dim, ...]
    const: bool = False
    below: int | None = None

    @property
    def parameter(self) -> bool:
        """Whether it is a parameter of the model."""
        return False

    @property
    def expanded(self) -> bool:
        """Whether it is a view of fewer elements."""
        return False

    @property
    def written(self) -> bool:
        """Whether the graph writes its result to it."""
        return False


@dataclass(frozen=True, slots=True)
class OperandSpec(TensorSpec):
    """A test input that models have in another form: ``parameter f32[8]``, ``expanded f32[2, 8]``, ``written f32[8]``.

    A ``parameter`` is ``const`` as well. What is ``expanded`` is expanded along its first dim of several elements. What
    is ``written`` gets the value that the pattern gives.
    """

    parameter: bool = False  # type: ignore[misc]
    expanded: bool = False  # type: ignore[misc]
    written: bool = False  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class ListSpec(Node):
    """A test input that is a list of specs."""

    items: tuple[TensorSpec | ListSpec | Literal, ...]


@dataclass(frozen=True, slots=True)
class Binding(Node):
    """``x: f32[2, 3]`` or ``k = 3`` in a test line."""

    name: str
    value: TensorSpec | ListSpec | Expr


@dataclass(frozen=True, slots=True)
class Test(Node):
    """A ``test`` line, or a ``reject`` line when ``rejects``."""

    bindings: tuple[Binding, ...]
    rejects: bool = False


@dataclass(frozen=True, slots=True)
class Family(Node):
    """``for (A, T) in ("none", GELU_ERF), ("tanh", GELU_TANH)``."""

    names: tuple[str, ...]
    members: tuple[tuple[Expr, ...], ...]


@dataclass(frozen=True, slots=True)
class RuleItem(Node):
    """A rule as written."""

    kind: str
    name: str
    family: Family | None
    doc: str
    match: Pattern
    steps: tuple[Let | Guard, ...]  # `let` and `when` clauses in the order written
    emit: Expr
    needs: tuple[Expr, ...] = ()
    over: tuple[str, ...] = ()
    decreases: Expr | None = None
    relax: tuple[str, ...] = ()
    tests: tuple[Test, ...] = ()


@dataclass(frozen=True, slots=True)
class Parameter(Node):
    """A parameter of a macro, an extern or a layer.

    For layers: ``attribute`` parameters come after ``*``; ``property`` is the attribute's name on the TensorRT
    layer when it differs (``as stride_nd``); ``slot`` is the input through which the value may arrive at run time
    (``@1``); ``wildcard`` allows one unknown number to be written as -1 instead (``@1|-1``).
    """

    name: str
    type: Type | None = None
    default: Expr | None = None
    attribute: bool = False
    property: str | None = None
    slot: int | None = None
    wildcard: bool = False


@dataclass(frozen=True, slots=True)
class Macro(Node):
    """``def name(parameters) = body``."""

    name: str
    parameters: tuple[Parameter, ...]
    body: Expr


@dataclass(frozen=True, slots=True)
class PatternItem(Node):
    """``pattern name(parameters) = body``; an upper-case parameter stands for an op or a dim."""

    name: str
    parameters: tuple[Parameter, ...]
    body: Pattern


@dataclass(frozen=True, slots=True)
class Extern(Node):
    """``extern host.name(parameters) -> type``."""

    name: str
    parameters: tuple[Parameter, ...]
    result: Type


@dataclass(frozen=True, slots=True)
class MadeBy(Node):
    """``trt.name(MEMBER|MEMBER)``: a layer that has one of these enum members; any call of it where none is named.

    ``trt.name?`` may be left out.
    """

    layer: str
    members: tuple[Upper, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Apart(Node):
    """``apart x as instead when condition after layers``: operands that a layer must not get from others at once.

    ``layers`` begins with the one that made the operand and goes on with one of those before it. Such an operand,
    called ``name``, is given as ``instead``.
    """

    name: str
    instead: Expr
    condition: Expr
    layers: tuple[MadeBy, ...]


@dataclass(frozen=True, slots=True)
class LayerItem(Node):
    """``layer trt.name(inputs, *, attributes) -> outputs via add_name(...)``.

    ``gives`` holds one ``(shape, dtype)`` expression pair per output, or None where the declaration is silent.
    ``unless`` says of which operands TensorRT makes a wrong engine, ``apart`` after which layers it does,
    ``accumulates`` in which dtype sums are kept.
    """

    name: str
    parameters: tuple[Parameter, ...]
    outputs: tuple[Type, ...]
    gives: tuple[tuple[Expr, Expr] | None, ...]
    via: Call
    unless: Expr | None = None
    apart: Apart | None = None
    accumulates: Expr | None = None
    since: str | None = None
    until: str | None = None


@dataclass(frozen=True, slots=True)
class File:
    """A parsed file: its stem (rule ids are ``stem.name``), its path and its items in source order."""

    stem: str
    path: str
    text: str
    rules: tuple[RuleItem, ...]
    macros: tuple[Macro, ...]
    externs: tuple[Extern, ...]
    layers: tuple[LayerItem, ...]
    patterns: tuple[PatternItem, ...] = ()


__all__ = [
    "Apart",
    "Binding",
    "Extern",
    "Family",
    "File",
    "Guard",
    "LayerItem",
    "Let",
    "ListSpec",
    "Macro",
    "MadeBy",
    "OperandSpec",
    "Parameter",
    "PatternItem",
    "RuleItem",
    "TensorSpec",
    "Test",
]
