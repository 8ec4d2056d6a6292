"""The syntax tree of a ``.rules`` file.

The parser builds these nodes and the checker resolves them into :mod:`engine.dsl.rule` objects.
Every node is immutable, hashable where its values are, and knows its source span.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TypeAlias

from engine.errors import Span


@dataclass(frozen=True, slots=True)
class Node:
    """Base of all syntax nodes."""

    span: Span


# ---------------------------------------------------------------- types


@dataclass(frozen=True, slots=True)
class Dim(Node):
    """One dimension of a shape: a number, a name with an optional range, ``_`` or ``..``."""

    name: str | None = None  # "B" binds or compares a symbolic int; None with size None is `_`
    size: int | None = None
    range: tuple[int, int] | None = None
    rest: bool = False


@dataclass(frozen=True, slots=True)
class Type(Node):
    """A sort, a dtype class with a shape, a list, a tuple or an enum type.

    ``names`` are alternatives: dtypes (``f32``), dtype classes (``floating``, ``integral``, ``tensor``),
    sorts (``int``, ``float``, ``bool``, ``str``, ``dtype``, ``scalar``, ``weights``, ``axes``) or one TensorRT
    enum class (``SampleMode``).
    """

    names: tuple[str, ...] = ()
    dims: tuple[Dim, ...] | None = None
    modifier: str | None = None  # "const" | "static"
    optional: bool = False
    element: Type | None = None  # [element]
    items: tuple[Type, ...] | None = None  # (a, b)

    def __str__(self) -> str:
        """The type as a rule writes it."""
        if self.element is not None:
            text = f"[{self.element}]"
        elif self.items is not None:
            text = f"({', '.join('_' if item is None else str(item) for item in self.items)})"
        else:
            text = "|".join(self.names)
        if self.dims is not None:
            text += f"[{', '.join('..' if d.rest else str(d.name or d.size or '_') for d in self.dims)}]"
        return (f"{self.modifier} " if self.modifier else "") + text + ("?" if self.optional else "")


# ---------------------------------------------------------------- expressions


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

# ---------------------------------------------------------------- patterns


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

# ---------------------------------------------------------------- clauses and items


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
class LayerItem(Node):
    """``layer trt.name(inputs, *, attributes) -> outputs via add_name(...)``.

    ``gives`` holds one ``(shape, dtype)`` expression pair per output, or None where the declaration is silent.
    ``unless`` says of which operands TensorRT makes a wrong engine, ``accumulates`` in which dtype sums are kept.
    """

    name: str
    parameters: tuple[Parameter, ...]
    outputs: tuple[Type, ...]
    gives: tuple[tuple[Expr, Expr] | None, ...]
    via: Call
    unless: Expr | None = None
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


def walk(item: object) -> Iterator[Node]:
    """The nodes of a syntax tree, or of several, each before those in it."""
    if isinstance(item, Node):
        yield item
        for part in fields(item):
            if part.name != "span":
                yield from walk(getattr(item, part.name))
    elif isinstance(item, tuple | list):
        for part in item:
            yield from walk(part)


def same(a: object, b: object) -> bool:
    """Whether two syntax trees say the same, wherever they stand."""
    if isinstance(a, Node):
        return type(a) is type(b) and all(
            same(getattr(a, part.name), getattr(b, part.name)) for part in fields(a) if part.name != "span"
        )
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b
