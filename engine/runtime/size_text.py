"""Symbolic sizes as text, and back, without ``eval``.

A symbol's assumptions (whole, positive, ...) are kept beside the text, in a table by name.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import sympy
from sympy.logic.boolalg import Boolean
from sympy.printing.str import StrPrinter
from torch.utils._sympy import functions

from engine.errors import FileError, SaveError
from engine.sizes import Int, normal

Symbols: TypeAlias = "dict[str, dict[str, bool]]"
"""Symbol name -> the assumptions that hold of it."""

_ASSUMPTIONS = ("integer", "positive", "nonnegative", "real")
# Larger exponents are no sizes, and would take the reader's time and memory.
_LARGEST_EXPONENT = 64
_LARGEST_NUMBER = 1 << 64
# sympy's time to simplify an expression grows with the third power of its height: 100 take up to four seconds.
_MOST_NODES, _GREATEST_HEIGHT = 1000, 100

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(functions, name)
    for name in (
        "BitwiseFn_bitwise_and", "BitwiseFn_bitwise_or", "BitwiseFn_bitwise_xor", "CeilDiv", "CeilToInt", "CleanDiv",
        "FloatPow", "FloatTrueDiv", "FloorDiv", "FloorToInt", "Identity", "IntTrueDiv",
        "IsNonOverlappingAndDenseIndicator",
        "LShift", "Max", "Min", "Mod", "ModularIndexing", "PowByNatural", "PythonMod", "RShift", "RoundDecimal",
        "RoundToInt", "ToFloat", "TruncToFloat", "TruncToInt", "Where",
        *(name for name in vars(functions) if name.startswith("OpaqueUnaryFn_")),
    )
    if hasattr(functions, name)
}  # fmt: skip
_FUNCTIONS |= {
    name: getattr(sympy, name)
    for name in ("Abs", "Eq", "Ge", "Gt", "Le", "Lt", "Ne", "Piecewise", "And", "Or", "Not", "floor", "ceiling", "sign")
}
_EXPONENTS = frozenset({"FloatPow", "LShift", "PowByNatural", "RShift", "RoundDecimal"})
_COMPARISONS = {ast.Lt: sympy.Lt, ast.LtE: sympy.Le, ast.Gt: sympy.Gt, ast.GtE: sympy.Ge}


class _Printer(StrPrinter):
    # Not the "_sympystr" of torch's functions: `a // b` and `a % b` do not say which function it was.
    printmethod = "_saved"

    def _print_Function(self, expr: Any) -> str:
        return f"{type(expr).__name__}({self.stringify(expr.args, ', ')})"

    def _print_Float(self, expr: Any) -> str:
        return repr(float(expr))

    _print_Max = _print_Min = _print_LatticeOp = _print_And = _print_Or = _print_Not = _print_Function


def write_size(size: Int, symbols: Symbols) -> int | str:
    """A symbolic int as JSON: an int, or text; its symbols are added to ``symbols``.

    Raises:
        SaveError: it holds something that has no text form.
    """
    return size if isinstance(size, int) else _write(size, symbols, read_size)


def write_relation(relation: sympy.Basic, symbols: Symbols) -> str:
    """A relation between symbolic ints as text; its symbols are added to ``symbols``.

    Raises:
        SaveError: it holds something that has no text form.
    """
    return _write(relation, symbols, read_relation)


def _write(expression: sympy.Basic, symbols: Symbols, read: Callable[[str, Any], Any]) -> str:
    for symbol in expression.free_symbols:
        symbols[str(symbol)] = {name: True for name in _ASSUMPTIONS if getattr(symbol, f"is_{name}")}
    text = str(_Printer().doprint(expression))
    try:
        same = read(text, read_symbols(symbols)) == expression
    except FileError as error:
        raise SaveError(f"the size {expression} cannot be saved: {error}") from None
    if not same:
        raise SaveError(f"the size {expression} cannot be saved: it reads back as something else")
    return text


def read_symbols(table: Any) -> dict[str, sympy.Symbol]:
    """The symbols of a table that `write_size` filled.

    Raises:
        FileError: it is not such a table.
    """
    if not isinstance(table, Mapping):
        raise FileError("the table of symbols is damaged")
    found = {}
    for name, assumptions in table.items():
        if not isinstance(assumptions, Mapping) or not set(assumptions) <= set(_ASSUMPTIONS):
            raise FileError(f"the symbol {name!r} has assumptions that are not known")
        found[name] = sympy.Symbol(name, **{key: bool(value) for key, value in assumptions.items()})
    return found


def read_size(value: Any, symbols: Mapping[str, sympy.Symbol]) -> Int:
    """A symbolic int from what `write_size` gave.

    Raises:
        FileError: it is no size; nothing in it is run as code.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > _LARGEST_NUMBER:
            raise FileError(f"a number of {len(str(abs(value)))} digits is not a size")
        return value
    return _parsed(value, symbols, normal)


def read_relation(value: Any, symbols: Mapping[str, sympy.Symbol]) -> sympy.Basic:
    """A relation from what `write_relation` gave.

    Raises:
        FileError: it is none; nothing in it is run as code.
    """
    relation = _parsed(value, symbols, sympy.sympify)
    if not isinstance(relation, Boolean):
        raise FileError(f"{value[:80]!r} is not a relation between sizes")
    return relation


def _parsed(value: Any, symbols: Mapping[str, sympy.Symbol], finish: Callable[[Any], Any]) -> Any:
    if not isinstance(value, str) or len(value) > 10_000:
        raise FileError(f"{str(value)[:80]!r} is not a size")
    try:
        tree = ast.parse(value, mode="eval").body
        _check_extent(tree)
        return finish(_read(tree, symbols))
    except Exception as error:
        raise FileError(f"{value[:80]!r} is not a size: {error}") from None


def _check_extent(tree: ast.expr) -> None:
    level: list[ast.AST] = [tree]
    nodes = height = 0
    while level:
        nodes, height = nodes + len(level), height + 1
        if nodes > 3 * _MOST_NODES or height > _GREATEST_HEIGHT:  # of an operation there are three in the tree
            raise ValueError(f"it has more than {_MOST_NODES} parts, or more than {_GREATEST_HEIGHT} inside each other")
        level = [child for node in level for child in ast.iter_child_nodes(node)]


def _read(node: ast.expr, symbols: Mapping[str, sympy.Symbol]) -> Any:
    found = _read_node(node, symbols)
    if isinstance(found, sympy.Expr) and found.is_number and not abs(found) <= _LARGEST_NUMBER:
        raise ValueError("it holds a number that no size has")
    return found


def _read_node(node: ast.expr, symbols: Mapping[str, sympy.Symbol]) -> Any:
    match node:
        case ast.Constant(value=bool() as value):
            return sympy.true if value else sympy.false
        case ast.Constant(value=int() as value):
            return sympy.Integer(value)
        case ast.Constant(value=float() as value):
            return sympy.Float(value)
        case ast.Name(id=name) if name in symbols:
            return symbols[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_read(operand, symbols)
        case ast.BinOp(left=left, op=op, right=right):
            return _binary(op, _read(left, symbols), _read(right, symbols))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
            return _COMPARISONS[type(op)](_read(left, symbols), _read(right, symbols))
        case ast.Tuple(elts=elements):
            return tuple(_read(element, symbols) for element in elements)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            values = [_read(argument, symbols) for argument in arguments]
            if name in _EXPONENTS and any(v.is_number and abs(v) > _LARGEST_EXPONENT for v in values[1:]):
                raise ValueError(f"{name} of such a number is not a size")
            return _FUNCTIONS[name](*values)
        case ast.Name(id=name) if name in ("True", "False"):
            return sympy.true if name == "True" else sympy.false
    raise ValueError(f"{ast.unparse(node)[:80]!r} has no meaning in a size")


def _binary(op: ast.operator, left: Any, right: Any) -> Any:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow() if right.is_Rational and abs(right) <= _LARGEST_EXPONENT and not left.is_number:
            return left**right
    raise ValueError(f"{type(op).__name__} has no meaning in a size")


__all__ = ["Symbols", "read_relation", "read_size", "read_symbols", "write_relation", "write_size"]
