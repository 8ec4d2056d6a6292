"""Sorts, that is the kinds of values, as far as they are certain before anything is matched.

A sort is a word: ``tensor``, ``tensors`` (the outputs of a call), ``int``, ``float``, ``bool``, ``str``, ``dtype``,
``none``, ``list``, ``tuple``, ``enum``, ``graph``; None when it cannot be known.
"""

from __future__ import annotations

from engine.dsl import tree
from engine.dsl.vocabulary import SORTS, dtype_classes, dtypes

_OF_LITERAL = {bool: "bool", int: "int", float: "float", str: "str", type(None): "none"}
_NUMBERS = frozenset({"int", "float", "bool"})


def of_literal(value: object) -> str | None:
    """The sort of a literal."""
    if isinstance(value, tuple | list):
        return "list"
    return _OF_LITERAL.get(type(value), "dtype")


def _allowed(kind: str) -> frozenset[str] | None:
    """Sorts that a schema type takes; None for types that rules know nothing about."""
    if kind.startswith("List["):
        # `int[1] dim` takes a number too; a list of tensors may come as the outputs of a call.
        return frozenset({"list", "tuple", "tensors"}) | (frozenset() if "Tensor" in kind else _NUMBERS)
    return _SCHEMA.get(kind)


_SCHEMA = {
    "Tensor": frozenset({"tensor", "tensors"}) | _NUMBERS,
    "int": _NUMBERS - {"float"},
    "SymInt": _NUMBERS - {"float"},
    "float": _NUMBERS,
    "number": _NUMBERS,
    "bool": frozenset({"bool"}),
    "str": frozenset({"str"}),
    "ScalarType": frozenset({"dtype"}),
}


def fits_schema(sort: str | None, kind: str, optional: bool) -> bool:
    """Whether a value of a sort can be an argument of a schema type; True when that is not certain."""
    if sort is None or (sort == "none" and optional):
        return True
    allowed = _allowed(kind)
    return allowed is None or sort in allowed


def fits_type(sort: str | None, kind: tree.Type) -> bool:
    """Whether a value of a sort can have a declared type; True when that is not certain."""
    if sort is None or (sort == "none" and kind.optional):
        return True
    if kind.element is not None:
        return sort in ("list", "tuple", "tensors")
    if kind.items is not None:
        return sort in ("list", "tuple")
    return any(sort in _of_name(name, kind) for name in kind.names)


def _of_name(name: str, kind: tree.Type) -> frozenset[str]:
    if name in _DECLARED and (name not in dtypes() or kind.dims is None):
        return _DECLARED[name]
    if name in dtypes() or name in dtype_classes():
        return frozenset({"tensor", "tensors"})
    return frozenset({"enum", "dtype"}) if name == "DataType" else frozenset({"enum"})


_DECLARED = {
    "int": frozenset({"int", "bool"}),
    "float": _NUMBERS,
    "scalar": _NUMBERS,
    "bool": frozenset({"bool"}),
    "str": frozenset({"str"}),
    "dtype": frozenset({"dtype"}),
    "weights": frozenset({"tensor", "tensors"}),
    "axes": frozenset({"list", "tuple", "int"}),
    "graph": frozenset({"graph"}),
}
assert set(_DECLARED) == SORTS


def describe(sort: str) -> str:
    """A sort in a sentence."""
    return {
        "tensor": "a tensor",
        "tensors": "several tensors",
        "int": "an int",
        "float": "a float",
        "bool": "a bool",
        "str": "a string",
        "dtype": "a dtype",
        "none": "none",
        "list": "a list",
        "tuple": "a tuple",
        "enum": "an enum member",
        "graph": "a graph",
        "op": "an op",
    }[sort]


def show(kind: tree.Type) -> str:
    """A type as it is written."""
    text = "" if kind.modifier is None else kind.modifier + " "
    if kind.element is not None:
        text += f"[{show(kind.element)}]"
    elif kind.items is not None:
        text += f"({', '.join(map(show, kind.items))})"
    else:
        text += "|".join(kind.names)
        if kind.dims is not None:
            text += f"[{', '.join(map(_show_dim, kind.dims))}]"
    return text + ("?" if kind.optional else "")


def _show_dim(dim: tree.Dim) -> str:
    if dim.rest:
        return ".."
    if dim.name is not None:
        return dim.name if dim.range is None else f"{dim.name}={dim.range[0]}..{dim.range[1]}"
    return "_" if dim.size is None else str(dim.size)
