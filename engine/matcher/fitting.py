"""Whether arguments of a graph are the same, or have a type that a pattern asks for."""

from __future__ import annotations

from typing import Any

import sympy
import torch

from engine.dsl import tree
from engine.dtypes import CLASSES, DTYPES
from engine.graph.mirror import Mirror, Value
from engine.graph.subgraph import Subgraph
from engine.matcher.paths import MISSING
from engine.sizes import Sizes, is_known, is_symint


def same(mirror: Mirror, a: Any, b: Any) -> bool:
    """Whether two arguments are certainly the same value; one constant may be read by several nodes."""
    if a is MISSING or b is MISSING:
        return False
    if isinstance(a, Value) or isinstance(b, Value):
        if not (isinstance(a, Value) and isinstance(b, Value)):
            return False
        return a == b or (a.node.op == b.node.op == "get_attr" and a.node.target == b.node.target)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(same(mirror, x, y) for x, y in zip(a, b, strict=True))
    if is_symint(a) and is_symint(b):
        return mirror.sizes.equal(a, b)
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def fits(mirror: Mirror, value: Any, names: tuple[str, ...], tensor: bool) -> bool:
    """Whether an argument that is not None has one of the named dtypes, dtype classes or scalar sorts."""
    if isinstance(value, Value):
        fake = mirror.fake(value)
        if not isinstance(fake, torch.Tensor):
            return False
        return any(_is_dtype(fake.dtype, name) for name in names)
    return not tensor and any(_is_sort(value, name) for name in names)


def _is_dtype(dtype: torch.dtype, name: str) -> bool:
    return name == "tensor" or dtype is DTYPES.get(name) or dtype in CLASSES.get(name, ())


def _is_sort(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name in ("bool", "scalar")
    if isinstance(value, int):
        return name in ("int", "scalar")
    if isinstance(value, float):
        return name in ("float", "scalar")
    if isinstance(value, sympy.Expr):
        return name == "scalar" or name == ("int" if value.is_integer is not False else "float")
    if isinstance(value, str):
        return name == "str"
    if isinstance(value, Subgraph):
        return name == "graph"
    return isinstance(value, torch.dtype) and name == "dtype"


def conforms(mirror: Mirror, value: Any, type_: tree.Type) -> bool:
    """Whether an argument has a type, elements of lists and tuples included; named dims are not compared."""
    if value is None:
        return type_.optional
    if type_.element is not None or type_.items is not None:
        if not isinstance(value, tuple) or isinstance(value, Value):
            return False
        types = type_.items if type_.items is not None else (type_.element,) * len(value)
        if len(types) != len(value):
            return False
        return all(t is None or conforms(mirror, v, t) for v, t in zip(value, types, strict=True))
    if type_.modifier == "static" and not is_known(value):
        return False
    if type_.modifier == "const" and isinstance(value, Value) and not mirror.is_const(value):
        return False
    if not fits(mirror, value, type_.names, type_.dims is not None):
        return False
    return type_.dims is None or _has_dims(mirror.sizes, mirror.shape(value), type_.dims)


def _has_dims(sizes: Sizes, shape: tuple[Any, ...], dims: tuple[tree.Dim, ...]) -> bool:
    rest = next((i for i, dim in enumerate(dims) if dim.rest), None)
    if rest is None:
        pairs = list(zip(shape, dims, strict=False))
        fitting = len(shape) == len(dims)
    else:
        after = len(dims) - rest - 1
        tail = shape[len(shape) - after :] if after else ()
        pairs = [*zip(shape, dims[:rest], strict=False), *zip(tail, dims[rest + 1 :], strict=False)]
        fitting = len(shape) >= len(dims) - 1
    return fitting and all(dim.size is None or sizes.equal(size, dim.size) for size, dim in pairs)


__all__ = ["conforms", "fits", "same"]
