"""Checked rules: what the matcher, the rewriter and the emitter work with.

The checker turns a :class:`engine.dsl.tree.RuleItem` into one :class:`Rule` per family member.  Names are
resolved, arguments sit at their schema positions and omitted arguments have become their schema defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from engine.dsl import tree
from engine.errors import Span


@dataclass(frozen=True, slots=True)
class EnumToken:
    """An enum member by name; its enum class is that of the layer parameter it is passed to."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class OpName:
    """An operator by its full name, e.g. ``aten.add.Tensor`` or ``aten.linear.default``."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class OpMatch:
    """An operator with its argument patterns at schema positions.

    Attributes:
        op: full overload name (``aten.linear.default``).
        arguments: ``(schema index, pattern)``; arguments not listed may be anything (the pattern had ``..``).
        rest: name that binds the unlisted arguments, in schema order, as a list.
        output: which output the pattern stands for; 0 for single-output ops.
        outputs: names bound to all outputs (``-> (y, idx)``), None for the rest of the language.
        shared: interior node that others may also read (``&``).
        optional: matches with or without the op (``?``); without it, its first tensor argument stands in.
        unordered: the first two tensor arguments match in either order (``{}``).
    """

    op: str
    arguments: tuple[tuple[int, ArgumentPattern], ...]
    rest: str | None
    output: int
    outputs: tuple[str | None, ...] | None
    shared: bool
    optional: bool
    unordered: bool
    span: Span


@dataclass(frozen=True, slots=True)
class ListMatch:
    """A list argument: ``before``, then ``rest`` (bound to ``rest_name``) if ``has_rest``, then ``after``."""

    before: tuple[ArgumentPattern, ...]
    has_rest: bool
    rest_name: str | None
    after: tuple[ArgumentPattern, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Equals:
    """A literal argument; ``approximate`` compares floats within a relative 1e-6."""

    value: object
    approximate: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Bind:
    """A capture.  The same name twice means the same value.  ``type`` is None when anything fits.

    An ascribed type also tests: dtype class, rank, dims (numbers, and names that bind symbolic ints or, when
    already bound, must be equal), ``const``; a tensor type without ``?`` does not match None and numbers.
    """

    name: str
    type: tree.Type | None
    span: Span


@dataclass(frozen=True, slots=True)
class Anything:
    """``_``."""

    span: Span


@dataclass(frozen=True, slots=True)
class OneOf:
    """``(a | b as name)``: the first that fits.

    Attributes:
        names: of each alternative, the name that is true where it fits and false where another does; None without.
    """

    patterns: tuple[ArgumentPattern, ...]
    names: tuple[str | None, ...]
    span: Span


ArgumentPattern: TypeAlias = OpMatch | ListMatch | Equals | Bind | Anything | OneOf


@dataclass(frozen=True, slots=True)
class Facts:
    """What the text of a rule says of it, kept with the rule so that its body need not be read for it.

    Attributes:
        looks: how many edges its guards look beyond what its pattern captured.
        emits: of a ``lower`` rule, full names of the ops that it emits, one per call written.
        decreases: whether it has a measure that gets smaller.
    """

    looks: int
    emits: tuple[str, ...]
    decreases: bool


@dataclass(frozen=True, slots=True)
class Rule(tree.Compilable):
    """One checked rule, or one member of a rule family.

    Attributes:
        id: ``file.name``; members of a family add ``[k]``.
        kind: ``simplify``, ``lower`` or ``convert``.
        level: 0 built-in, 1 of a package, 2 of a user; a higher level wins.
        roots: the root patterns; several for a tuple pattern.
        steps: ``let`` and ``when`` clauses in order.
        family: values of the family variables (literals, :class:`EnumToken` or :class:`OpName`).
        rank: position in precedence order among all rules of the set; lower is tried first.
        text: the rule as written.
    """

    id: str
    kind: str
    level: int
    doc: str
    roots: tuple[OpMatch, ...]
    steps: tuple[tree.Let | tree.Guard, ...]
    emit: tree.Expr
    needs: tuple[tree.Expr, ...]
    over: tuple[str, ...]
    decreases: tree.Expr | None
    relax: tuple[str, ...]
    tests: tuple[tree.Test, ...]
    family: Mapping[str, object]
    span: Span
    rank: int = 0
    text: str = ""

    def ranked(self, rank: int) -> Rule:
        """The same rule at another place in the order."""
        return self if self.rank == rank else replace(self, rank=rank)

    @property
    def root_ops(self) -> tuple[str, ...]:
        """The ops of its roots, each once."""
        return tuple(dict.fromkeys(root.op for root in self.roots))

    @property
    def facts(self) -> Facts | None:
        """What its text says of it, where that is known without reading it."""
        return None

    @property
    def dequantizes(self) -> bool:
        """Whether its own right side, without the macros it uses, makes floats of narrower values."""
        parts = tree.walk((*self.steps, self.emit))
        return any(isinstance(part, tree.Qualified) and part.name == "trt.dequantize" for part in parts)

    @property
    def where(self) -> str:
        """``file:line`` of the rule."""
        return f"{self.span.file}:{self.span.line}"


@dataclass(frozen=True, slots=True)
class Layer(tree.Compilable):
    """A TensorRT layer as ``rules/layers.rules`` declares it (see :class:`engine.dsl.tree.LayerItem`)."""

    name: str  # "trt.slice"
    parameters: tuple[tree.Parameter, ...]
    outputs: tuple[tree.Type, ...]
    gives: tuple[tuple[tree.Expr, tree.Expr] | None, ...]
    via: tree.Call
    unless: tree.Expr | None
    apart: tree.Apart | None
    accumulates: tree.Expr | None
    since: tuple[int, int] | None
    until: tuple[int, int] | None
    span: Span
    by_name: Mapping[str, tree.Parameter] = field(default_factory=dict, compare=False)
