"""Symbolic ints: sizes that are known, decidable, or computed when the engine runs.

A symbolic int is a Python ``int`` when it is known and a ``sympy.Expr`` over the symbols of a
``ShapeEnv`` otherwise.  Arithmetic on known ints stays Python arithmetic.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import sympy
import torch
from sympy.logic.boolalg import Boolean
from torch.fx.experimental.symbolic_shapes import ShapeEnv, canonicalize_bool_expr
from torch.utils._sympy import functions
from torch.utils._sympy.functions import FloorDiv, Max, Min, Mod, TruncToInt
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

Int: TypeAlias = "int | sympy.Expr"
Truth: TypeAlias = "bool | sympy.Basic"


def normal(value: object) -> Int:
    """A symbolic int from anything int-like: ``int``, ``SymInt`` or a sympy expression."""
    if isinstance(value, torch.SymInt):
        value = value.node.expr
    if isinstance(value, sympy.Expr):
        return int(value) if value.is_Integer or (value.is_integer and value.is_number) else value
    return int(value)  # type: ignore[call-overload, no-any-return]


def is_known(value: object) -> bool:
    """Whether a symbolic int, or every symbolic int in a nested list, is a Python number."""
    if isinstance(value, list | tuple):
        return all(map(is_known, value))
    return not isinstance(value, sympy.Basic)


# Functions of sizes that give numbers which need not be whole; names differ between versions of PyTorch.
_FRACTIONS = tuple(
    function
    for name, function in vars(functions).items()
    if name.startswith("OpaqueUnaryFn_")
    or name in ("FloatPow", "FloatTrueDiv", "IntTrueDiv", "RoundDecimal", "ToFloat", "TruncToFloat")
)
_PASSING = (sympy.Add, sympy.Mul, sympy.Pow, sympy.Abs, Max, Min, sympy.Max, sympy.Min)
_CHOICES = tuple(getattr(functions, name) for name in ("Where",) if hasattr(functions, name))


def is_real(size: sympy.Basic) -> bool:
    """Whether an expression over sizes is a number that need not be whole."""
    if isinstance(size, (*_FRACTIONS, sympy.Float)):
        return True
    if isinstance(size, sympy.Piecewise):
        return any(is_real(pair.args[0]) for pair in size.args)
    if isinstance(size, _CHOICES):
        return any(map(is_real, size.args[1:]))
    return isinstance(size, _PASSING) and any(map(is_real, size.args))


def is_symint(value: object) -> bool:
    """Whether ``value`` is a symbolic int (bools are not)."""
    return isinstance(value, int | sympy.Expr) and not isinstance(value, bool)


def add(a: Int, b: Int) -> Int:
    """``a + b``."""
    return normal(a + b)


def sub(a: Int, b: Int) -> Int:
    """``a - b``."""
    return normal(a - b)


def mul(a: Int, b: Int) -> Int:
    """``a * b``."""
    return normal(a * b)


def floordiv(a: Int, b: Int) -> Int:
    """``a // b``, rounded down as Python does."""
    return a // b if isinstance(a, int) and isinstance(b, int) else normal(FloorDiv(a, b))


def mod(a: Int, b: Int) -> Int:
    """Python's modulo: the result has the sign of ``b``."""
    return a % b if isinstance(a, int) and isinstance(b, int) else normal(sub(a, mul(floordiv(a, b), b)))


def minimum(*values: Int) -> Int:
    """The least of several sizes."""
    return min(values) if is_known(values) else normal(Min(*values))  # type: ignore[type-var]


def maximum(*values: Int) -> Int:
    """The greatest of several sizes."""
    return max(values) if is_known(values) else normal(Max(*values))  # type: ignore[type-var]


_Ranges: TypeAlias = "Mapping[sympy.Symbol, ValueRanges[sympy.Expr]]"


def _without_extremes(expression: sympy.Basic, ranges: _Ranges) -> sympy.Basic:
    """An expression whose ``Min(s, s - 1)``, ``Min(s, 9)`` and the like are the one that they always are."""
    if not expression.has(Max, Min):
        return expression
    for kind, sign in ((Min, 1), (Max, -1)):
        expression = expression.replace(
            kind, lambda *values, kind=kind, sign=sign: _extreme(kind, values, sign, ranges)
        )
    return expression


def _extreme(kind: type, values: Sequence[sympy.Expr], sign: int, ranges: _Ranges) -> sympy.Expr:
    """The least (``sign`` 1) or greatest (-1) of sizes, without those that another one is never behind."""
    kept: list[sympy.Expr] = []
    for value in values:
        distances = [sign * sympy.expand(value - other) for other in kept]
        if any(_never_below(distance, 0, ranges) for distance in distances):
            continue
        kept = [o for o, d in zip(kept, distances, strict=True) if not _never_below(-d, 1, ranges)] + [value]
    return kept[0] if len(kept) == 1 else kind(*kept)


def _never_below(size: sympy.Expr, low: int, ranges: _Ranges) -> bool:
    if size.is_Integer:
        return bool(size >= low)
    return bool(bound_sympy(size, ranges).lower >= low)  # type: ignore[arg-type]


def without_ite(value: sympy.Basic) -> sympy.Basic:
    """The same with ``and``, ``or`` and ``not`` for the if-then-else that sympy makes of choices between choices.

    PyTorch's arithmetic on ranges does not know it.
    """
    if not value.has(sympy.ITE):
        return value
    spelled: sympy.Basic = value.replace(
        sympy.ITE, lambda test, then, otherwise: sympy.Or(sympy.And(test, then), sympy.And(sympy.Not(test), otherwise))
    )
    return spelled


# Of ints, and of symbolic ones: sympy takes 20 times as long for ints.
_RELATIONS = {
    "==": (operator.eq, sympy.Eq),
    "!=": (operator.ne, sympy.Ne),
    "<": (operator.lt, sympy.Lt),
    "<=": (operator.le, sympy.Le),
    ">": (operator.gt, sympy.Gt),
    ">=": (operator.ge, sympy.Ge),
}


class Sizes:
    """Questions about symbolic ints, answered from their ranges and from what is known to hold of them.

    A ``ShapeEnv`` believes more than that: PyTorch takes every size to be 2 or more while it infers shapes.

    Args:
        ranges: symbol -> smallest and largest size; other symbols have the range that the ``ShapeEnv`` gives them.
        facts: relations that hold of all sizes; what the ``ShapeEnv`` noted where they are not given.
    """

    def __init__(
        self,
        shape_env: ShapeEnv | None,
        ranges: Mapping[sympy.Symbol, tuple[int, int]] | None = None,
        facts: Collection[sympy.Basic] | None = None,
    ) -> None:
        self.shape_env = shape_env
        self._ranges: dict[sympy.Symbol, ValueRanges[sympy.Expr]] = {}
        if shape_env is not None:
            self._ranges.update(shape_env.var_to_range)
        for symbol, (low, high) in (ranges or {}).items():
            self._ranges[symbol] = ValueRanges(sympy.Integer(low), sympy.Integer(high))
        self._facts = facts
        self._implied: dict[sympy.Basic, sympy.Basic] | None = None
        self._decided: dict[sympy.Basic, bool | None] = {}

    def decide(self, relation: Truth) -> bool | None:
        """True or False when it holds or fails for every size allowed, None when that depends on the sizes."""
        if isinstance(relation, bool):
            return relation
        if relation is sympy.true or relation is sympy.false:
            return bool(relation)
        if relation not in self._decided:
            if len(self._decided) > 10_000:
                self._decided.clear()
            self._decided[relation] = self._decide(relation)
        return self._decided[relation]

    def _decide(self, relation: sympy.Basic) -> bool | None:
        relation = without_ite(relation)
        if self.shape_env is not None:
            relation = self.shape_env.replace(relation)  # type: ignore[type-var]
        relation = _without_extremes(relation, self._ranges)
        # The ShapeEnv would decide what is left of maxima by what it believes, and rounds down where it truncates.
        if self.shape_env is not None and not relation.has(Max, TruncToInt):
            simplified = self.shape_env.simplify(relation)  # type: ignore[arg-type, type-var]
            relation = canonicalize_bool_expr(simplified).xreplace(self._implications())  # type: ignore[type-var]
            if isinstance(relation, Boolean) and not relation.free_symbols:
                return bool(relation)
            ranges = tuple((symbol, self._ranges.get(symbol)) for symbol in sorted(relation.free_symbols, key=str))
            if all(found is not None for _, found in ranges):
                settled = self.shape_env._maybe_evaluate_static(relation, axioms=(), var_to_range=ranges)  # type: ignore[arg-type]
                if settled is not None:
                    return bool(settled)
        if relation is sympy.true or relation is sympy.false:
            return bool(relation)
        bounds = bound_sympy(relation, self._ranges)  # type: ignore[arg-type]
        if bounds.is_singleton():
            return bool(bounds.lower)
        return None

    def _implications(self) -> dict[sympy.Basic, sympy.Basic]:
        """Relation -> true or false, as it follows from the facts."""
        assert self.shape_env is not None
        if self._facts is None:
            return self.shape_env.axioms  # type: ignore[return-value]
        if self._implied is None:
            self._implied = {}
            for fact in self._facts:
                self._implied.update(self.shape_env.get_implications(self.shape_env.simplify(fact)))  # type: ignore[arg-type, type-var]
        return self._implied

    def compare(self, relation: str, a: Int, b: Int) -> Truth:
        """``a relation b`` as a bool when decidable, else as a sympy relation."""
        plain, symbolic = _RELATIONS[relation]
        if isinstance(a, int) and isinstance(b, int):
            return bool(plain(a, b))
        asked = symbolic(a, b)
        settled = self.decide(asked)
        return asked if settled is None else settled

    def equal(self, a: Int, b: Int) -> bool:
        """Whether two symbolic ints are certainly equal."""
        return self.compare("==", a, b) is True

    def select(self, test: Truth, then: Int, otherwise: Int) -> Int:
        """``then if test else otherwise``; an undecided test returns a ``Piecewise``."""
        settled = self.decide(test)
        if settled is not None:
            return then if settled else otherwise
        return normal(sympy.Piecewise((then, test), (otherwise, True)))

    def range(self, value: Int) -> tuple[int | None, int | None]:
        """Smallest and largest value a symbolic int can take; None where unbounded."""
        if isinstance(value, int):
            return value, value
        bounds = bound_sympy(without_ite(value), self._ranges)  # type: ignore[arg-type]

        def finite(bound: sympy.Expr) -> int | None:
            return int(bound) if bound.is_Integer else None

        return finite(bounds.lower), finite(bounds.upper)

    def describe(self, value: Int) -> str:
        """A symbolic int for an error message, e.g. ``s27 in [2, 99]``."""
        if isinstance(value, int):
            return str(value)
        low, high = self.range(value)
        return f"{value} in [{low}, {'...' if high is None else high}]"


def broadcast(sizes: Sizes, shapes: Sequence[Sequence[Int]]) -> tuple[Int, ...] | None:
    """The broadcast of several shapes, None if they certainly do not fit.

    Two unequal symbolic dims are taken to be equal, as the graph that was traced promises.
    """
    rank = max(map(len, shapes), default=0)
    result: list[Int] = []
    for axis in range(rank):
        size: Int = 1
        for shape in shapes:
            position = axis - rank + len(shape)
            dim = shape[position] if position >= 0 else 1
            if dim == 1:
                continue
            if size == 1 or (isinstance(dim, int) and not isinstance(size, int)):
                size = dim
            elif isinstance(size, int) and isinstance(dim, int) and size != dim:
                return None
        result.append(size)
    return tuple(result)


__all__ = [
    "Int",
    "Mod",
    "Sizes",
    "Truth",
    "add",
    "broadcast",
    "floordiv",
    "is_known",
    "is_real",
    "is_symint",
    "maximum",
    "minimum",
    "mod",
    "mul",
    "normal",
    "sub",
    "without_ite",
]
