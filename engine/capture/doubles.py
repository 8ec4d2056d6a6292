"""``truncate_double``: a graph that computes in float32 what the model computes in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from engine.capture.canonical import canonical_arguments

_NARROW = {torch.float64: torch.float32, torch.complex128: torch.complex64}


def truncate_doubles(graph: fx.Graph, constants: dict[str, torch.Tensor], mode: FakeTensorMode) -> bool:
    """Narrow float64 (and complex128) values of a canonical graph, in place; whether there were any.

    Inputs are cast where they enter and outputs cast back where they leave, so the graph is called as
    before.  Graphs inside its ops are another matter (:func:`narrow_graph`).
    """
    outputs = _output(graph)
    wide = {node: _dtype(node) for node in graph.nodes if _dtype(node) in _NARROW}
    narrowed = False
    body = next((node for node in graph.nodes if node.op != "placeholder"), outputs)
    for node in list(graph.nodes):
        if node.op == "placeholder" and node in wide:
            cast = _cast(graph, node, _NARROW[wide[node]], body, mode)
            node.replace_all_uses_with(cast, delete_user_cb=lambda user, cast=cast: user not in (cast, outputs))
            narrowed = True
        elif node.op == "get_attr" and node in wide:
            constants[str(node.target)] = constants[str(node.target)].to(_NARROW[wide[node]])
            narrowed |= _narrow_value(node, mode)
        elif node.op == "call_function":
            narrowed |= _narrow_dtypes(node) | _narrow_value(node, mode)

    def widened(result: Any) -> Any:
        # An input that is returned as it came keeps its precision.
        if result not in wide or result.op == "placeholder":
            return result
        return _cast(graph, result, wide[result], outputs, mode)

    outputs.args = (tuple(widened(result) for result in outputs.args[0]),)  # type: ignore[union-attr]
    return narrowed


def narrow_graph(graph: fx.Graph, constants: dict[str, torch.Tensor], mode: FakeTensorMode) -> None:
    """Narrow float64 values of a graph inside an op, in place; it takes and gives what the graph around it then has."""
    for node in graph.nodes:
        if node.op == "get_attr" and _dtype(node) in _NARROW:
            constants[str(node.target)] = constants[str(node.target)].to(_NARROW[_dtype(node)])
            _narrow_value(node, mode)
        elif node.op in ("placeholder", "call_function"):
            _narrow_dtypes(node)
            _narrow_value(node, mode)


def _output(graph: fx.Graph) -> fx.Node:
    return next(node for node in reversed(graph.nodes) if node.op == "output")


def _dtype(node: fx.Node) -> Any:
    return getattr(node.meta.get("val"), "dtype", None)


def _cast(graph: fx.Graph, node: fx.Node, dtype: torch.dtype, before: fx.Node, mode: FakeTensorMode) -> fx.Node:
    op = torch.ops.aten._to_copy.default
    args, kwargs = canonical_arguments(op, (node,), {"dtype": dtype})
    with graph.inserting_before(before):
        cast = graph.call_function(op, args, kwargs)
    with mode:
        cast.meta = {**node.meta, "val": node.meta["val"].to(dtype)}
    return cast


def _narrow_dtypes(node: fx.Node) -> bool:
    """Replace wide dtypes among the arguments (``dtype=torch.float64``)."""
    changed = False

    def narrow(value: Any) -> Any:
        nonlocal changed
        if isinstance(value, torch.dtype) and value in _NARROW:
            changed = True
            return _NARROW[value]
        return value

    args, kwargs = tuple(map(narrow, node.args)), {name: narrow(value) for name, value in node.kwargs.items()}
    if changed:
        node.args, node.kwargs = args, kwargs
    return changed


def _narrow_value(node: fx.Node, mode: FakeTensorMode) -> bool:
    changed = False

    def narrow(value: Any) -> Any:
        nonlocal changed
        if isinstance(value, torch.Tensor) and value.dtype in _NARROW:
            changed = True
            return value.to(_NARROW[value.dtype])
        return value

    with mode:
        node.meta["val"] = pytree.tree_map(narrow, node.meta["val"])
    return changed
