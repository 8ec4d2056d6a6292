"""Sizes as nodes: symbolic ints are written into the graph once each, near its inputs."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._sympy import functions as symbolic

from engine import sizes
from engine.errors import EngineError
from engine.graph.arguments import is_symbolic, symint
from engine.graph.symbolic.size_functions import COMPARISONS, difference
from engine.graph.value import Value

if TYPE_CHECKING:
    from engine.graph.mirror import Mirror

_FOLDS: dict[type, Callable[..., Any]] = {
    sympy.Add: operator.add,
    sympy.Mul: operator.mul,
    symbolic.Max: torch.sym_max,
    symbolic.Min: torch.sym_min,
    sympy.Max: torch.sym_max,
    sympy.Min: torch.sym_min,
    sympy.And: operator.and_,
    sympy.Or: operator.or_,
}

# Functions of sizes that have one FX function which takes the same operands; names differ between versions of PyTorch.
_FUNCTIONS: dict[type, Callable[..., Any]] = {
    **COMPARISONS,
    sympy.Abs: operator.abs,
    sympy.Mod: operator.mod,
    sympy.Not: torch.sym_not,
    sympy.Pow: operator.pow,
    **{
        getattr(symbolic, name): function
        for name, function in {
            "BitwiseFn_bitwise_and": operator.and_,
            "BitwiseFn_bitwise_or": operator.or_,
            "BitwiseFn_bitwise_xor": operator.xor,
            "CeilToInt": math.ceil,
            "CleanDiv": operator.floordiv,
            "FloatPow": operator.pow,
            "FloatTrueDiv": operator.truediv,
            "FloorDiv": operator.floordiv,
            "FloorToInt": math.floor,
            "IntTrueDiv": operator.truediv,
            "LShift": operator.lshift,
            "Mod": operator.mod,
            "PowByNatural": operator.pow,
            "PythonMod": operator.mod,
            "RShift": operator.rshift,
            "RoundDecimal": round,
            "RoundToInt": round,
            "ToFloat": torch.sym_float,
            "TruncToInt": math.trunc,
            "Where": torch.sym_ite,
            # Roots, sines and the like: PyTorch has an FX function for those that its tracing can give.
            **{
                name: getattr(torch, f"_sym_{name.removeprefix('OpaqueUnaryFn_')}")
                for name in vars(symbolic)
                if name.startswith("OpaqueUnaryFn_") and hasattr(torch, f"_sym_{name.removeprefix('OpaqueUnaryFn_')}")
            },
        }.items()
        if hasattr(symbolic, name)
    },
}


def size_call(expression: sympy.Basic) -> tuple[Callable[..., Any], list[sympy.Basic]]:
    """The FX function that computes an expression which is no symbol and no number, and its operands.

    Raises:
        EngineError: there is none.
    """
    kind, operands = type(expression), list(expression.args)
    if isinstance(expression, sympy.Mul) and not sizes.is_real(expression):
        # Sizes are whole, and so is a quotient of them that divides.
        numerator, denominator = expression.as_numer_denom()
        if denominator != 1:
            return operator.floordiv, [numerator, denominator]
    if kind in _FOLDS:
        # Two operands per node; the tail is an expression of the same kind and is shared too.
        if len(operands) > 2:
            operands = [operands[0], expression.func(*operands[1:])]
        return _FOLDS[kind], operands
    if kind in _FUNCTIONS:
        return _FUNCTIONS[kind], operands
    if isinstance(expression, symbolic.ModularIndexing):
        value, divisor, modulus = operands
        return operator.mod, [symbolic.FloorDiv(value, divisor), modulus]
    if isinstance(expression, symbolic.TruncToFloat):
        return torch.sym_float, [symbolic.TruncToInt(*operands)]
    if isinstance(expression, sympy.Piecewise):
        (then, test), *others = [pair.args for pair in expression.args]
        if not others or test is sympy.true:
            return operator.add, [then, sympy.Integer(0)]
        otherwise = others[0][0] if others[0][1] is sympy.true else sympy.Piecewise(*others)
        return torch.sym_ite, [test, then, otherwise]
    raise EngineError(f"the size {expression} cannot be computed by nodes: no FX function for {kind.__name__}")


class SizeNodes:
    """Hash-consed nodes for symbolic ints.

    Expressions over the sizes of placeholders are inserted right after the placeholders, so that shape
    arithmetic never hangs off intermediate tensors.  Expressions with an unbacked symbol are inserted after
    the node that defines the symbol.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._nodes: dict[sympy.Basic, fx.Node] = {}
        self._cursor: fx.Node | None = None  # the last node of the run of size nodes after the placeholders
        self._scanned = False

    def node(self, expression: sympy.Basic, before: fx.Node | None = None) -> fx.Node:
        """The node that computes ``expression``, made if there is none before ``before``.

        Raises:
            EngineError: a symbol is not the size of any input, or is defined only after ``before``.
        """
        self._scan()
        found = self._nodes.get(expression)
        if found is not None and (before is None or found < before):
            return found
        made = self._make(expression, before)
        if before is not None and not made < before:
            raise EngineError(
                f"the size {expression} is computed by {made.name}, which comes after {before.name}; "
                "a rule cannot use a size before it exists"
            )
        return made

    def forget(self, node: fx.Node) -> None:
        """Called before ``node`` is erased or replaced."""
        if node is self._cursor:
            self._cursor = node.prev
        expression = self._expression(node)
        if expression is not None and self._nodes.get(expression) is node:
            del self._nodes[expression]

    @staticmethod
    def _expression(node: fx.Node) -> sympy.Basic | None:
        value = node.meta.get("val")
        if not is_symbolic(value):
            return None
        expression = symint(value)
        return expression if isinstance(expression, sympy.Basic) else None

    def _scan(self) -> None:
        """Learn the size nodes that are in the graph already; the earliest of equals wins."""
        if self._scanned:
            return
        self._scanned = True
        for node in self._mirror.graph.nodes:
            expression = self._expression(node)
            if expression is not None:
                self._nodes.setdefault(expression, node)

    def hoist(self) -> int:
        """Recompute sizes of intermediate tensors from the placeholders; how many size nodes that replaced.

        Sizes with unbacked symbols stay where they are.
        """
        self._scan()
        rooted: set[fx.Node] = set(self._mirror.placeholders)
        loose: list[fx.Node] = []
        for node in self._mirror.graph.nodes:
            if node.op != "call_function" or not is_symbolic(node.meta.get("val")):
                continue
            if all(source in rooted for source in node.all_input_nodes):
                rooted.add(node)
            elif not free_unbacked_symbols(node.meta["val"]):
                loose.append(node)
        for node in loose:
            expression = self._expression(node)
            if expression is not None and self._nodes.get(expression) is node:
                del self._nodes[expression]
        for node in loose:
            self._mirror.substitute(node, self._mirror.size_node(symint(node.meta["val"]), node))
        for node in reversed(loose):
            self._mirror.erase_dead([node])
        return len(loose)

    # ------------------------------------------------------------ making nodes

    def _make(self, expression: sympy.Basic, before: fx.Node | None) -> fx.Node:
        if isinstance(expression, sympy.Symbol):
            made = self._leaf(expression)
        else:
            target, operands = size_call(expression)
            made = self._call(target, tuple(self._operand(operand, before) for operand in operands))
            self._check(expression, made)
        self._nodes[expression] = made
        return made

    @staticmethod
    def _check(expression: sympy.Basic, node: fx.Node) -> None:
        """Compare a node with the expression that it should compute, by what PyTorch infers for its function.

        Raises:
            EngineError: they differ for some sizes.
        """
        value = node.meta["val"]
        found = symint(value) if is_symbolic(value) else sympy.sympify(value)
        if found == expression or not isinstance(found, sympy.Basic):
            return
        sizes = difference(expression, found)
        if sizes is not None:
            at = ", ".join(f"{symbol} = {size}" for symbol, size in sizes.items())
            raise EngineError(f"the size {expression} would be computed as {found}, which differs for {at}")

    def _operand(self, expression: sympy.Basic, before: fx.Node | None) -> Any:
        if expression.is_Integer:
            return int(expression)
        if expression.is_Float or expression.is_Rational:
            return float(expression)
        if expression in (sympy.true, sympy.false):
            return bool(expression)
        found = self._nodes.get(expression)
        usable = found is not None and (before is None or found < before)
        return found if usable else self._make(expression, before)

    def _call(self, target: Callable[..., Any], arguments: tuple[Any, ...]) -> fx.Node:
        fakes = [item.meta["val"] if isinstance(item, fx.Node) else item for item in arguments]
        operands = [item for item in arguments if isinstance(item, fx.Node)]
        return self._place(target, arguments, target(*fakes), operands)

    def _place(
        self, target: Callable[..., Any], arguments: tuple[Any, ...], fake: Any, operands: list[fx.Node]
    ) -> fx.Node:
        top = self._top()
        after = reduce(lambda a, b: b if a is None or a < b else a, operands, top)
        graph = self._mirror.graph
        context = graph.inserting_after(after) if after is not None else graph.inserting_before(_first(graph))
        with context:
            node = graph.call_function(target, arguments)
        node.meta["val"] = fake
        if after is top:
            self._cursor = node
        self._mirror._inserted(node)
        return node

    def _top(self) -> fx.Node | None:
        """The last placeholder, or the last size node placed after it."""
        placeholders = self._mirror.placeholders
        last = placeholders[-1] if placeholders else None
        if self._cursor is None or (last is not None and self._cursor < last):
            self._cursor = last
        return self._cursor

    def _leaf(self, symbol: sympy.Symbol) -> fx.Node:
        derived: tuple[sympy.Expr, fx.Node, int] | None = None
        for placeholder in self._mirror.placeholders:
            value = placeholder.meta["val"]
            if is_symbolic(value) and symint(value) == symbol:
                return placeholder
            if not isinstance(value, torch.Tensor):
                continue
            for axis, size in enumerate(self._mirror.shape_of(placeholder)):
                if size == symbol:
                    return self._size(placeholder, axis, value.shape[axis])
                if derived is None and isinstance(size, sympy.Expr) and size.free_symbols == {symbol}:
                    derived = (size, placeholder, axis)
        if derived is not None:
            return self._solve(symbol, *derived)
        found = self._unbacked_leaf(symbol)
        if found is not None:
            return found
        if self._mirror.name:
            return self._mirror.size_input(symbol)
        raise EngineError(f"the size {symbol} is not the size of any input, so it cannot be computed")

    def _size(self, source: fx.Node, axis: int, fake: Any) -> fx.Node:
        target = torch.ops.aten.sym_size.int  # data about PyTorch: its op for a size
        return self._place(target, (source, axis), fake, [] if source.op == "placeholder" else [source])

    def _unbacked_leaf(self, symbol: sympy.Symbol) -> fx.Node | None:
        node: fx.Node
        for node in self._mirror.graph.nodes:
            value = node.meta.get("val")
            if node.op == "placeholder" or value is None:
                continue
            if is_symbolic(value) and symint(value) == symbol:
                return node
            for index, output in enumerate(value if isinstance(value, tuple | list) else (value,)):
                if not isinstance(output, torch.Tensor):
                    continue
                for axis, size in enumerate(output.shape):
                    if isinstance(size, torch.SymInt) and symint(size) == symbol:
                        return self._size(self._mirror.output_node(Value(node, index)), axis, size)
        return None

    def _solve(self, symbol: sympy.Symbol, size: sympy.Expr, placeholder: fx.Node, axis: int) -> fx.Node:
        """``symbol`` from an input dim that is ``a * symbol + b`` (a derived dim of ``torch.export``)."""
        polynomial = sympy.Poly(size, symbol) if size.is_polynomial(symbol) else None
        if polynomial is None or polynomial.degree() != 1:
            raise EngineError(f"the size {symbol} cannot be computed from {placeholder.name}, whose dim is {size}")
        slope, offset = (int(c) for c in polynomial.all_coeffs())
        node = self._size(placeholder, axis, placeholder.meta["val"].shape[axis])
        if offset:
            node = self._call(operator.sub, (node, offset))
        return self._call(operator.floordiv, (node, slope)) if slope != 1 else node


def _first(graph: fx.Graph) -> fx.Node:
    first: fx.Node = next(iter(graph.nodes))
    return first
