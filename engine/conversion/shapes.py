"""Symbolic ints in a network: expressions over sizes as INT64 shape tensors, each expression once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._sympy import functions as symbolic

from engine.conversion.scope import NetworkScope, Rejected
from engine.graph.symbolic.written_sizes import WrittenSizes
from engine.sizes import Int, floordiv, is_known, is_real, maximum, mod, mul, normal, sub, without_ite
from engine.tensorrt import load

# n-ary sympy nodes -> ElementWiseOperation
_FOLDS: dict[type, str] = {
    sympy.Add: "SUM",
    sympy.Mul: "PROD",
    symbolic.Max: "MAX",
    symbolic.Min: "MIN",
    sympy.Max: "MAX",
    sympy.Min: "MIN",
    sympy.And: "AND",
    sympy.Or: "OR",
}
# FLOOR_DIV rounds down as Python does; DIV of integers rounds towards zero.
_DIVISIONS = (symbolic.FloorDiv, symbolic.CleanDiv)
_REMAINDERS = (symbolic.Mod, symbolic.PythonMod)
# relation -> (operation, negated)
_RELATIONS: dict[type, tuple[str, bool]] = {
    sympy.Eq: ("EQUAL", False),
    sympy.Ne: ("EQUAL", True),
    sympy.Lt: ("LESS", False),
    sympy.Ge: ("LESS", True),
    sympy.Gt: ("GREATER", False),
    sympy.Le: ("GREATER", True),
}
_MOST_POWER = 8
# The same for numbers that need not be whole.
_REAL: dict[type, str] = {
    sympy.Add: "SUM",
    sympy.Mul: "PROD",
    sympy.Pow: "POW",
    symbolic.FloatPow: "POW",
    symbolic.FloatTrueDiv: "DIV",
    symbolic.IntTrueDiv: "DIV",
    symbolic.Max: "MAX",
    symbolic.Min: "MIN",
}
# What layers compute in FLOAT to within its precision, whatever the numbers are.
_PRECISE = (sympy.Mul, sympy.Float, symbolic.FloatTrueDiv, symbolic.IntTrueDiv, symbolic.ToFloat)
# Functions of one number that are a layer of the same name; those of torch's tracing that are none are left out.
_UNARY = tuple(
    getattr(symbolic, f"OpaqueUnaryFn_{name}")
    for name in ("sqrt", "exp", "log", "sin", "cos", "tan", "sinh", "cosh", "asin", "acos", "atan", "asinh")
    if hasattr(symbolic, f"OpaqueUnaryFn_{name}")
)
_ROUNDINGS = (symbolic.CeilToInt, symbolic.FloorToInt, symbolic.RoundToInt, symbolic.TruncToInt)


def _is_precise(size: sympy.Basic) -> bool:
    return not is_real(size) or (isinstance(size, _PRECISE) and all(map(_is_precise, size.args)))


def _rounded(size: sympy.Basic) -> Int:
    """A rounded quotient of sizes by whole numbers only, which no rounding of floats comes into."""
    above, below = map(normal, size.args[0].args)
    floor = floordiv(above, below)
    if isinstance(size, symbolic.FloorToInt):
        return floor
    ceiling = mul(-1, floordiv(mul(-1, above), below))
    if isinstance(size, symbolic.CeilToInt):
        return ceiling
    if isinstance(size, symbolic.TruncToInt):
        return _chosen(floor, sympy.Ge(floor, 0), ceiling)
    # To the nearest, and to the even one of two that are as near.
    nearest = floordiv(mul(2, above) + below, mul(2, below))
    tie = sympy.Eq(mod(mul(2, above) + below, mul(2, below)), 0)
    return _chosen(sub(nearest, 1), sympy.And(tie, sympy.Eq(mod(nearest, 2), 1)), nearest)


def _chosen(then: Int, test: sympy.Basic, otherwise: Int) -> Int:
    return normal(sympy.Piecewise((then, test), (otherwise, True)))


class ShapeTensors:
    """Hash-consed size arithmetic of one network.

    Leaves are dims of tensors given to :meth:`define` (the network's inputs, and outputs of layers with
    data-dependent sizes).  What no leaf and no operation can give becomes an extra network input, through
    ``ask``, which the caller has to feed.

    Sizes are 1-d tensors with one element, so that a vector is one concatenation.
    """

    def __init__(self, scope: NetworkScope, ask: Callable[[sympy.Expr], Any]) -> None:
        self._scope = scope
        self._ask = ask
        self._leaves: dict[sympy.Expr, tuple[Any, int | None]] = {}
        self._shapes: dict[int, Any] = {}
        self._pieces: dict[sympy.Basic, Any] = {}
        self._vectors: dict[tuple[Int, ...], Any] = {}
        self._scalars: dict[tuple[Int, torch.dtype], Any] = {}
        self._written = WrittenSizes()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """While the subgraph of an op is replayed: what is defined and made meanwhile is forgotten afterwards.

        It may hang off tensors that exist in a loop or on one side of a conditional only.
        """
        kept = [dict(held) for held in self._held()]
        try:
            yield
        finally:
            for held, before in zip(self._held(), kept, strict=True):
                held.clear()
                held.update(before)

    def _held(self) -> tuple[dict[Any, Any], ...]:
        return self._leaves, self._shapes, self._pieces, self._vectors, self._scalars

    # ------------------------------------------------------------ leaves

    def assign(self, symbol: sympy.Symbol, size: Any) -> None:
        """Say what a symbol is: a symbolic int, or a 0-d INT64 tensor of the network."""
        if isinstance(size, int | sympy.Expr):
            self._pieces[symbol] = self.piece(size)
        else:
            self._leaves[symbol] = size, None

    def define(self, size: Int, tensor: Any, axis: int | None) -> None:
        """Say that dim ``axis`` of a network tensor is ``size``, or the tensor itself; the first definition stays."""
        if not isinstance(size, int):
            self._leaves.setdefault(size, (tensor, axis))

    def _dim(self, tensor: Any, axis: int | None, name: str) -> Any:
        if axis is None:
            return self._scope.reshaped(tensor, (1,), name)
        shape = self._shapes.get(id(tensor))
        if shape is None:
            layer = self._scope.add("add_shape", (tensor,), f"sizes/shape/{tensor.name}")
            shape = layer.get_output(0)
            # TensorRT before 10 gave INT32 here.
            shape = self._shapes[id(tensor)] = self._scope.cast(shape, torch.int64, f"sizes/shape/{tensor.name}/cast")
        return self._scope.add("add_slice", (shape, (axis,), (1,), (1,)), name).get_output(0)

    def _linear(self, symbol: sympy.Symbol) -> sympy.Expr | None:
        """``symbol`` in terms of a leaf such as ``2*symbol + 1``."""
        for leaf in self._leaves:
            if leaf.free_symbols != {symbol} or not leaf.is_polynomial(symbol):
                continue
            polynomial = sympy.Poly(leaf, symbol)
            if polynomial.degree() == 1 and all(c.is_Integer for c in polynomial.all_coeffs()):
                return leaf
        return None

    def _solve(self, symbol: sympy.Symbol, leaf: sympy.Expr) -> Any:
        slope, offset = (int(c) for c in sympy.Poly(leaf, symbol).all_coeffs())
        piece = self.piece(leaf)
        if offset:
            piece = self._elementwise("SUB", piece, self.piece(offset), f"{symbol}/offset")
        if slope != 1:
            piece = self._elementwise("FLOOR_DIV", piece, self.piece(slope), f"{symbol}/slope")
        return piece

    # ------------------------------------------------------------ sizes

    def piece(self, size: Any) -> Any:
        """A size, or a relation of sizes (then BOOL), as a 1-d tensor with one element."""
        if isinstance(size, bool):
            return self._scope.numbers([size], torch.bool)
        if isinstance(size, int):
            return self._scope.numbers([size], torch.int64)
        if size in (sympy.true, sympy.false):
            return self._scope.numbers([bool(size)], torch.bool)
        if size.is_Integer:
            return self._scope.numbers([int(size)], torch.int64)
        made = self._pieces.get(size)
        if made is None:
            made = self._pieces[size] = self._make(size)
        return made

    def _make(self, size: sympy.Basic) -> Any:
        leaf = self._leaves.get(size)  # type: ignore[call-overload]
        if leaf is not None:
            return self._dim(*leaf, f"sizes/{size}")
        written = self._written.of(without_ite(size))
        if written != size:
            return self.piece(written)
        if is_real(size):
            return self._real(size)
        if isinstance(size, _ROUNDINGS) and isinstance(size.args[0], symbolic.IntTrueDiv):
            return self.piece(_rounded(size))
        if isinstance(size, sympy.Abs) and size.args[0].is_integer:
            return self.piece(maximum(normal(size.args[0]), normal(-size.args[0])))
        if isinstance(size, sympy.Symbol):
            if size.is_integer is not True:
                raise Rejected(
                    f"{size} is a float that is read from a tensor, and a network takes whole numbers as sizes"
                )
            solved = self._linear(size)
            return self._asked(size) if solved is None else self._solve(size, solved)
        return self._operation(size) if self._supported(size) else self._asked(size)

    def _asked(self, size: sympy.Expr) -> Any:
        return self._scope.reshaped(self._ask(size), (1,), f"sizes/{size}")

    @staticmethod
    def _supported(size: sympy.Basic) -> bool:
        if isinstance(size, sympy.Pow):
            base, exponent = size.args
            return bool(base.is_integer and exponent.is_Integer and 0 < int(exponent) <= _MOST_POWER)
        if isinstance(size, sympy.Mul):
            return all(arg.is_integer or arg.is_Rational for arg in size.args)
        if isinstance(size, sympy.Integer | sympy.Not | sympy.Piecewise | symbolic.ModularIndexing):
            return True
        if size.is_Rational or size in (sympy.true, sympy.false):
            return True
        return isinstance(size, (*_FOLDS, *_DIVISIONS, *_REMAINDERS, *_RELATIONS))

    def _real(self, size: sympy.Basic) -> Any:
        """A number that is not whole, a quotient of sizes say, as FLOAT.

        Python computes it in double precision.  What layers may come far from (the difference of two quotients) is an
        input of the network, unless it hangs off data.
        """
        if size.is_number:
            return self._scope.numbers([float(size)], torch.float32)  # type: ignore[arg-type]
        if not is_real(size):
            return self._scope.cast(self.piece(size), torch.float32, f"sizes/{size}/real")
        if not free_unbacked_symbols(size) and not _is_precise(size):
            return self._asked(size)
        if isinstance(size, symbolic.ToFloat):
            return self._real(size.args[0])
        if isinstance(size, _UNARY):
            name = type(size).__name__.removeprefix("OpaqueUnaryFn_").upper()
            operation = getattr(load().UnaryOperation, name)
            arguments = (self._real(size.args[0]), operation)
            return self._scope.add("add_unary", arguments, f"sizes/{size}").get_output(0)
        binary = _REAL.get(type(size))
        if binary is None:
            raise Rejected(f"{size} is not a whole number, and no layer computes it from sizes")
        operands = [self._real(operand) for operand in size.args]
        return reduce(lambda a, b: self._elementwise(binary, a, b, size), operands)

    def _operation(self, size: sympy.Basic) -> Any:
        kind, args = type(size), size.args
        if kind is sympy.Mul and args[0].is_Rational and not args[0].is_Integer:
            numerator, denominator = args[0].as_numer_denom()
            return self.piece(floordiv(mul(int(numerator), normal(sympy.Mul(*args[1:]))), int(denominator)))
        if kind in _FOLDS:
            rest = size.func(*args[1:])
            return self._elementwise(_FOLDS[kind], self.piece(args[0]), self.piece(rest), size)
        if kind in _DIVISIONS:
            return self._elementwise("FLOOR_DIV", self.piece(args[0]), self.piece(args[1]), size)
        if kind in _REMAINDERS:
            whole = self.piece(mul(floordiv(normal(args[0]), normal(args[1])), normal(args[1])))
            return self._elementwise("SUB", self.piece(args[0]), whole, size)
        if kind is symbolic.ModularIndexing:
            value, divisor, modulus = map(normal, args)
            quotient = floordiv(value, divisor)
            return self.piece(sub(quotient, mul(floordiv(quotient, modulus), modulus)))
        if isinstance(size, sympy.Pow):
            base, exponent = args
            rest = sympy.Pow(base, exponent - 1, evaluate=True)
            return self._elementwise("PROD", self.piece(base), self.piece(rest), size)
        if kind in _RELATIONS:
            operation, negated = _RELATIONS[kind]
            real = any(map(is_real, args))
            if real and not free_unbacked_symbols(size):
                # What is equal, or greater, in double precision need not be so in FLOAT.
                asked = self._asked(sympy.Piecewise((sympy.Integer(1), size), (sympy.Integer(0), True)))
                return self._elementwise("EQUAL", asked, self.piece(1), size)
            piece = self._real if real else self.piece
            made = self._elementwise(operation, piece(args[0]), piece(args[1]), size)
            return self._negated(made, size) if negated else made
        if kind is sympy.Not:
            return self._negated(self.piece(args[0]), size)
        assert isinstance(size, sympy.Piecewise)
        (then, test), *others = [pair.args for pair in size.args]
        if test is sympy.true or not others:
            return self.piece(then)
        otherwise = self.piece(sympy.Piecewise(*others))
        arguments = (self.piece(test), self.piece(then), otherwise)
        return self._scope.add("add_select", arguments, f"sizes/{size}").get_output(0)

    def _elementwise(self, operation: str, a: Any, b: Any, name: object) -> Any:
        operator = getattr(load().ElementWiseOperation, operation)
        return self._scope.add("add_elementwise", (a, b, operator), f"sizes/{name}").get_output(0)

    def _negated(self, test: Any, name: object) -> Any:
        return self._scope.add("add_unary", (test, load().UnaryOperation.NOT), f"sizes/{name}/not").get_output(0)

    # ------------------------------------------------------------ vectors and scalars

    def vector(self, values: Sequence[Int]) -> Any:
        """Sizes as one 1-d INT64 tensor; neighbouring known numbers share one constant."""
        values = tuple(values)
        made = self._vectors.get(values)
        if made is None:
            made = self._vectors[values] = self._concatenated(values)
        return made

    def _concatenated(self, values: tuple[Int, ...]) -> Any:
        if is_known(values):
            return self._scope.numbers(list(values), torch.int64)
        pieces: list[Any] = []
        known: list[int] = []
        for value in values:
            if isinstance(value, int):
                known.append(value)
                continue
            if known:
                pieces.append(self._scope.numbers(known, torch.int64))
                known = []
            pieces.append(self.piece(value))
        if known:
            pieces.append(self._scope.numbers(known, torch.int64))
        if len(pieces) == 1:
            return pieces[0]
        name = f"sizes/[{', '.join(map(str, values))}]"
        return self._scope.add("add_concatenation", (pieces,), name).get_output(0)

    def scalar(self, value: Int, dtype: torch.dtype = torch.int64) -> Any:
        """A size as a 0-d tensor."""
        made = self._scalars.get((value, dtype))
        if made is None:
            if isinstance(value, int):
                made = self._scope.numbers(value, dtype)
            else:
                made = self._scope.reshaped(self.piece(value), (), f"sizes/{value}/scalar")
                made = self._scope.cast(made, dtype, f"sizes/{value}/cast")
            self._scalars[value, dtype] = made
        return made


__all__ = ["ShapeTensors"]
