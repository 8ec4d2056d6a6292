"""What must hold of the sizes of a call for the captured graph to compute what the model does.

``torch.export`` follows one way through a model.  Where the way depends on sizes, it notes the condition as a guard
of its ``ShapeEnv`` and leaves it at that: the program itself does not check it.
"""

from __future__ import annotations

import ast
import itertools
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import sympy
import torch
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from engine.capture.inputs import Range
from engine.capture.sizes.branches import Branch, described_line
from engine.capture.sizes.predicates import Function, function_of, text_of
from engine.graph.symbolic.layouts import asker, is_of_layout
from engine.graph.symbolic.written_sizes import ROUNDINGS, WrittenSizes
from engine.sizes import Sizes as Bounds

if TYPE_CHECKING:
    from engine.capture.signature import Argument
    from engine.capture.sizes.small_size_check import Difference

Sizes: TypeAlias = "Mapping[sympy.Symbol, int]"

_TORCH = os.path.join(os.path.dirname(torch.__file__), "")
_ENGINE = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "")
# Operators ask whether sizes differ to leave out special cases; what has to be equal has to be so of small sizes too.
_WAIVED = (sympy.Ne, sympy.Lt, sympy.Gt, sympy.Le, sympy.Ge)
# Sizes of one symbol, and combinations of several, that are looked at one by one.
_MOST_SIZES, _MOST_COMBINATIONS = 4096, 512


@dataclass(frozen=True)
class Guard:
    """A relation between sizes that the graph relies on.

    Attributes:
        relation: over the symbols of the arguments.
        source: the model line that it comes from, ``file:line``; empty where that is not known.
        asked: whether the model's own code decides by it; otherwise an operator of PyTorch does.
        found: what comes out differently where it does not hold; empty where that is not known.
        fixes: whether the model makes a Python number of a size there, which the relation says.
        unless_empty: it holds but where a size is 0, and has to be tried there.
    """

    relation: sympy.Basic
    source: str = ""
    asked: bool = False
    found: str = ""
    fixes: bool = False
    unless_empty: bool = False

    @cached_property
    def symbols(self) -> tuple[sympy.Symbol, ...]:
        """The symbols of the relation, by name."""
        return tuple(sorted(self.relation.free_symbols, key=str))  # type: ignore[arg-type]

    @cached_property
    def _function(self) -> Function:
        return function_of(self.relation)

    def holds(self, sizes: Mapping[sympy.Symbol, int]) -> bool:
        """Whether it holds of these sizes; a relation without a value does not."""
        try:
            return bool(self._function(sizes))
        except ArithmeticError:
            return False

    @property
    def who(self) -> str:
        """Whose decision it is."""
        return "its code" if self.asked else "an operator in it"

    def text(self, arguments: Sequence[Argument]) -> str:
        """The relation as Python, over ``x.shape[0]`` and the like."""
        return text_of(self.relation, size_names(arguments))


def size_names(arguments: Sequence[Argument]) -> dict[sympy.Symbol, str]:
    """What each symbol is the size of, as a user writes it."""
    found: dict[sympy.Symbol, str] = {}
    derived: dict[sympy.Symbol, str] = {}
    for argument in arguments:
        sizes = [(f"{argument.name}.shape[{dim}]", size) for dim, size in enumerate(argument.shape or ())]
        if argument.symbol is not None:
            sizes.append((argument.name, argument.symbol))
        for name, size in sizes:
            if isinstance(size, sympy.Symbol):
                found.setdefault(size, name)
            elif isinstance(size, sympy.Expr) and len(size.free_symbols) == 1:
                (symbol,) = size.free_symbols
                slope, offset = size.coeff(symbol, 1), size.subs(symbol, 0)
                if size == slope * symbol + offset and slope.is_Integer:
                    inner = f"({name} - {offset})" if offset else name
                    derived.setdefault(symbol, inner if slope == 1 else f"({inner} // {slope})")  # type: ignore[arg-type]
    return derived | found


# ------------------------------------------------------------------------------------ finding


class Found(NamedTuple):
    """The guards of a capture over the sizes of its inputs, each relation once.

    Attributes:
        guards: relations that values depend on.
        waived: those that are not asked of calls, because they lay out memory or only say that sizes are not 0 or 1.
    """

    guards: list[Guard]
    waived: list[Guard]


def find_guards(shape_env: ShapeEnv, branches: Iterable[Branch], symbols: Collection[sympy.Symbol]) -> Found:
    """The guards of a capture over the sizes of its inputs.

    Sizes read from data are left out: what is promised of them is the program's own matter.
    """
    found: dict[sympy.Basic, Guard] = {}
    waived: dict[sympy.Basic, Guard] = {}
    for relation, source, certain, fixes in branches:
        _add(found, Guard(replaced(relation, shape_env), source, asked=True, found=certain, fixes=fixes), symbols)
    for noted in shape_env.guards:
        frame = getattr(getattr(noted, "sloc", None), "framework_loc", None)
        place = _model_line(frame)
        relation = replaced(noted.expr, shape_env)
        waives = place is None and (is_of_layout(*asker(noted)) or excludes_small(relation))
        _add(waived if waives else found, Guard(relation, place or "", asked=place is not None), symbols)
    return Found(list(found.values()), [guard for relation, guard in waived.items() if relation not in found])


def replaced(relation: sympy.Basic, shape_env: ShapeEnv) -> sympy.Basic:
    """A relation over the symbols that are left once equal sizes have one, without quotients that are whole anyway."""
    if any(symbol in shape_env.replacements for symbol in relation.free_symbols):
        relation = shape_env.replace(relation)  # type: ignore[type-var]
    return WrittenSizes().of(relation) if relation.has(*ROUNDINGS) else relation


def _add(found: dict[sympy.Basic, Guard], guard: Guard, symbols: Collection[sympy.Symbol]) -> None:
    if guard.symbols and all(symbol in symbols for symbol in guard.symbols):
        found.setdefault(guard.relation, guard)


def excludes_small(relation: sympy.Basic) -> bool:
    """Whether a relation only says that a size is none of 0 and 1: tracing asks that of every size it meets."""
    if not isinstance(relation, sympy.Ne | sympy.Gt | sympy.Ge | sympy.Lt | sympy.Le):
        return False
    size, bound = relation.args
    if size.is_Integer:
        size, bound = bound, size
        relation = relation.reversed
    least = {sympy.Ge: 2, sympy.Gt: 1, sympy.Ne: 1}.get(type(relation))
    return least is not None and bool(bound.is_Integer) and 0 <= bound <= least


def _model_line(frame: Any) -> str | None:
    """The line of a guard of the ``ShapeEnv`` where it is no line of PyTorch or of this package."""
    file = getattr(frame, "filename", None)
    if file is None or str(file).startswith((_TORCH, _ENGINE)):
        return None
    return described_line(str(file), frame.lineno, frame.name)


def written_guards(
    program: ExportedProgram, arguments: Sequence[Argument], symbols: Collection[sympy.Symbol], notes: list[str]
) -> list[Guard]:
    """The guards of a program that comes from a file, which keeps them as Python text."""
    sizes: dict[str, Any] = {}
    for argument in arguments:
        source = _source(argument.name)
        sizes.update({f"{source}.size()[{dim}]": size for dim, size in enumerate(argument.shape or ())})
        if argument.symbol is not None:
            sizes[source] = argument.symbol
    found: dict[sympy.Basic, Guard] = {}
    for text in getattr(program, "_guards_code", None) or ():
        try:
            _add(found, Guard(_read(ast.parse(text, mode="eval").body, sizes)), symbols)
        except (ValueError, SyntaxError, TypeError, ArithmeticError):
            notes.append(f"the program relies on {text}, which could not be read and is not checked")
    return list(found.values())


def _source(name: str) -> str:
    """An argument as guards in text form name it: ``L['batch']['image']``."""
    end = min((name.index(sign) for sign in "[." if sign in name), default=len(name))
    return ast.unparse(ast.parse(f"L[{name[:end]!r}]{name[end:]}", mode="eval"))


_OPERATORS: dict[type, Any] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: torch.utils._sympy.functions.FloorDiv(a, b),
    ast.Mod: lambda a, b: torch.utils._sympy.functions.PythonMod(a, b),
    ast.Div: lambda a, b: torch.utils._sympy.functions.IntTrueDiv(a, b),
}
_RELATIONS: dict[type, Any] = {
    ast.Eq: sympy.Eq, ast.NotEq: sympy.Ne, ast.Lt: sympy.Lt, ast.LtE: sympy.Le, ast.Gt: sympy.Gt, ast.GtE: sympy.Ge,
}  # fmt: skip
_CALLS: dict[str, Any] = {
    "max": sympy.Max, "min": sympy.Min, "math.floor": sympy.floor, "math.ceil": sympy.ceiling, "abs": sympy.Abs,
    "float": lambda a: a, "torch.sym_float": lambda a: a,
}  # fmt: skip


def _read(node: ast.expr, sizes: Mapping[str, Any]) -> Any:
    text = ast.unparse(node)
    if text in sizes:
        return sympy.sympify(sizes[text])
    match node:
        case ast.Constant(value=int() | float() as value):
            return sympy.sympify(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_read(operand, sizes)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return sympy.Not(_read(operand, sizes))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_read(left, sizes), _read(right, sizes))
        case ast.Compare(left=first, ops=ops, comparators=others) if all(type(op) in _RELATIONS for op in ops):
            operands = [_read(operand, sizes) for operand in (first, *others)]
            return sympy.And(
                *(_RELATIONS[type(op)](a, b) for op, a, b in zip(ops, operands, operands[1:], strict=False))
            )
        case ast.BoolOp(op=op, values=values):
            parts = [_read(value, sizes) for value in values]
            return sympy.And(*parts) if isinstance(op, ast.And) else sympy.Or(*parts)
        case ast.Call(func=function, args=operands, keywords=[]) if ast.unparse(function) in _CALLS:
            return _CALLS[ast.unparse(function)](*(_read(operand, sizes) for operand in operands))
    raise ValueError(text)


# ------------------------------------------------------------------------------------ settling


@dataclass
class Settled:
    """What is left of guards once they are held against the ranges.

    Attributes:
        guards: those to check in every call with new sizes.
        missed: those of them that fail somewhere inside the ranges.
        narrowed: symbol -> the sizes that it may have, where a guard leaves less than its range, and that guard.
    """

    guards: list[Guard] = field(default_factory=list)
    missed: list[Guard] = field(default_factory=list)
    narrowed: dict[sympy.Symbol, tuple[int, int, Guard]] = field(default_factory=dict)

    def narrow(self, symbol: sympy.Symbol, low: int, high: int, guard: Guard) -> None:
        """Leave a symbol only the sizes from ``low`` to ``high``."""
        known = self.narrowed.get(symbol, (low, high, guard))
        reason = guard if low > known[0] or high < known[1] else known[2]
        self.narrowed[symbol] = (max(low, known[0]), min(high, known[1]), reason)


def settle(
    guards: Iterable[Guard],
    ranges: Mapping[sympy.Symbol, Range],
    trial: Callable[[Sizes], Difference | None] | None = None,
) -> Settled:
    """Hold guards against the ranges of the inputs.

    ``torch.export`` takes sizes to be 2 or more.  What it decides below that is tried: ``trial`` says what comes out
    differently at some sizes, None if nothing does; sizes that are not given are the least from 2 on.  Where there is
    no trial, what its operators decide is taken to be as good for 0 and 1, as PyTorch means it.
    """
    settled = Settled()
    usual = {symbol: _from_two(allowed) for symbol, allowed in ranges.items()}
    for guard in guards:
        checked, waived = dict(ranges), []
        for symbol in guard.symbols:
            small = range(ranges[symbol].min, usual[symbol].min)
            failing_small = [size for size in small if not all(map(guard.holds, _corners(guard, usual, symbol, size)))]
            bound = not (guard.asked or guard.unless_empty or isinstance(guard.relation, _WAIVED))
            if failing_small and bound:
                continue
            bad = _differing(guard, symbol, failing_small, trial)
            if bad is None:
                waived += [symbol] if failing_small else []
                checked[symbol] = usual[symbol]
            elif len(guard.symbols) == 1:
                settled.narrow(symbol, bad[0] + 1, ranges[symbol].max, replace(guard, found=bad[1]))
                checked[symbol] = usual[symbol]
        failing = _failing(guard, checked)
        if failing is None:
            continue
        if isinstance(failing, list):
            (symbol,) = guard.symbols
            good = [size for size in range(checked[symbol].min, checked[symbol].max + 1) if size not in set(failing)]
            if good and len(good) == good[-1] - good[0] + 1:
                low = ranges[symbol].min if good[0] == checked[symbol].min else good[0]
                settled.narrow(symbol, low, good[-1], guard)
                continue
        kept = replace(guard, relation=sympy.Or(guard.relation, *(symbol < 2 for symbol in waived)))
        settled.guards.append(kept)
        if failing:
            settled.missed.append(kept)
    return settled


def _from_two(allowed: Range) -> Range:
    return Range(*(max(size, 2) for size in allowed)) if allowed.max >= 2 else allowed


def _differing(
    guard: Guard, symbol: sympy.Symbol, sizes: Sequence[int], trial: Callable[[Sizes], Difference | None] | None
) -> tuple[int, str] | None:
    """The largest of some sizes of a symbol at which something comes out differently, and what; None if none."""
    for size in reversed(sizes):
        if guard.found:
            return size, guard.found
        if trial is None:
            return (size, "nothing is known") if guard.asked else None
        found = trial({symbol: size})
        # A model that refuses a size may do so for reasons that have nothing to do with what an operator asked.
        if found is not None and (guard.asked or not found.refused):
            return size, found.text
    return None


def holds_always(guard: Guard, ranges: Mapping[sympy.Symbol, Range]) -> bool:
    """Whether a guard is known to hold for all sizes of these ranges."""
    return _failing(guard, ranges) is None


def _failing(guard: Guard, ranges: Mapping[sympy.Symbol, Range]) -> list[int] | bool | None:
    """The sizes for which a guard fails; None where it holds for all.

    A list for a guard of one symbol whose sizes can be looked at one by one; otherwise whether some were found.
    """
    counts = [ranges[symbol].max - ranges[symbol].min + 1 for symbol in guard.symbols]
    if len(counts) == 1 and counts[0] <= _MOST_SIZES:
        (symbol,) = guard.symbols
        sizes = range(ranges[symbol].min, ranges[symbol].max + 1)
        return [size for size in sizes if not guard.holds({symbol: size})] or None
    if math.prod(counts) <= _MOST_COMBINATIONS:
        every = (range(ranges[symbol].min, ranges[symbol].max + 1) for symbol in guard.symbols)
        combinations = (dict(zip(guard.symbols, sizes, strict=True)) for sizes in itertools.product(*every))
        return None if all(map(guard.holds, combinations)) else True
    bounds = Bounds(None, {symbol: (ranges[symbol].min, ranges[symbol].max) for symbol in guard.symbols})
    if bounds.decide(guard.relation) is True:
        return None
    return not all(map(guard.holds, _corners(guard, ranges)))


def _corners(
    guard: Guard, ranges: Mapping[sympy.Symbol, Range], fixed: sympy.Symbol | None = None, size: int = 0
) -> Iterator[dict[sympy.Symbol, int]]:
    """Least, usual and largest sizes of all symbols of a guard; one of them may have a size that is given."""
    sizes = ([size] if symbol == fixed else dict.fromkeys(ranges[symbol]) for symbol in guard.symbols)
    for combination in itertools.product(*sizes):
        yield dict(zip(guard.symbols, combination, strict=True))


__all__ = [
    "Found",
    "Guard",
    "Settled",
    "excludes_small",
    "find_guards",
    "holds_always",
    "replaced",
    "settle",
    "size_names",
    "written_guards",
]
