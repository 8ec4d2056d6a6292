"""``truncate_double`` and ``widen_int16``: a graph that computes in dtypes that TensorRT has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from engine.graph.canonical import canonical_arguments
from engine.graph.marks import BOUNDARY_CAST
from engine.settings import CompilationSettings

Dtypes = Mapping[torch.dtype, torch.dtype]


ADVICE = {torch.float64: "truncate_double=True uses float32", torch.int16: "widen_int16=True uses int32"}
"""What to do about values of a dtype that TensorRT does not have."""


def substitutes(settings: CompilationSettings) -> Dtypes:
    """Dtype of the model -> dtype to compute in."""
    found: dict[torch.dtype, torch.dtype] = {}
    if settings.truncate_double:
        found |= {torch.float64: torch.float32, torch.complex128: torch.complex64}
    if settings.widen_int16:
        found[torch.int16] = torch.int32
    return found


def substitute(graph: fx.Graph, constants: dict[str, torch.Tensor], mode: FakeTensorMode, dtypes: Dtypes) -> bool:
    """Give the values of a canonical graph other dtypes, in place; whether there were any to change.

    Inputs are cast where they enter and outputs cast back where they leave, so the graph is called as
    before; these casts stay in PyTorch.  Graphs inside its ops are another matter (:func:`substitute_inside`).
    """
    outputs = graph.output_node()
    known = {node: _dtype(node) for node in graph.nodes if _dtype(node) in dtypes}
    changed = False
    body = next((node for node in graph.nodes if node.op != "placeholder"), outputs)
    for node in list(graph.nodes):
        if node.op == "placeholder" and node in known:
            cast = _cast(graph, node, dtypes[known[node]], known[node], body, mode)
            node.replace_all_uses_with(cast, delete_user_cb=lambda user, cast=cast: user not in (cast, outputs))
            changed = True
        elif node.op == "get_attr" and node in known:
            constants[str(node.target)] = constants[str(node.target)].to(dtypes[known[node]])
            changed |= _change_value(node, mode, dtypes)
        elif node.op == "call_function":
            changed |= _change_arguments(node, dtypes) | _change_value(node, mode, dtypes)

    def restored(result: Any) -> Any:
        # An input that is returned as it came keeps its precision.
        if result not in known or result.op == "placeholder":
            return result
        return _cast(graph, result, known[result], known[result], outputs, mode)

    outputs.args = (tuple(restored(result) for result in outputs.args[0]),)  # type: ignore[union-attr]
    return changed


def substitute_inside(
    graph: fx.Graph, constants: dict[str, torch.Tensor], mode: FakeTensorMode, dtypes: Dtypes
) -> None:
    """The same in the subgraph of an op, whose inputs and outputs then match those of the graph around it."""
    for node in graph.nodes:
        if node.op == "get_attr" and _dtype(node) in dtypes:
            constants[str(node.target)] = constants[str(node.target)].to(dtypes[_dtype(node)])
            _change_value(node, mode, dtypes)
        elif node.op in ("placeholder", "call_function"):
            _change_arguments(node, dtypes)
            _change_value(node, mode, dtypes)


def _dtype(node: fx.Node) -> Any:
    return getattr(node.meta.get("val"), "dtype", None)


def _cast(
    graph: fx.Graph, node: fx.Node, dtype: torch.dtype, lacking: torch.dtype, before: fx.Node, mode: FakeTensorMode
) -> fx.Node:
    """A cast to ``dtype`` at the boundary, for the sake of ``lacking``, which TensorRT does not have."""
    op = torch.ops.aten._to_copy.default
    args, kwargs = canonical_arguments(op, (node,), {"dtype": dtype})
    with graph.inserting_before(before):
        cast = graph.call_function(op, args, kwargs)
    with mode:
        cast.meta = {**node.meta, "val": node.meta["val"].to(dtype)}
    if lacking in ADVICE:
        cast.meta[BOUNDARY_CAST] = f"a cast where values enter or leave; {ADVICE[lacking]}"
    return cast


def _change_arguments(node: fx.Node, dtypes: Dtypes) -> bool:
    """Replace dtypes among the arguments (``dtype=torch.float64``)."""
    changed = False

    def change(value: Any) -> Any:
        nonlocal changed
        if isinstance(value, torch.dtype) and value in dtypes:
            changed = True
            return dtypes[value]
        return value

    args, kwargs = tuple(map(change, node.args)), {name: change(value) for name, value in node.kwargs.items()}
    if changed:
        node.args, node.kwargs = args, kwargs
    return changed


def _change_value(node: fx.Node, mode: FakeTensorMode, dtypes: Dtypes) -> bool:
    changed = False

    def change(value: Any) -> Any:
        nonlocal changed
        if isinstance(value, torch.Tensor) and value.dtype in dtypes:
            changed = True
            return value.to(dtypes[value.dtype])
        return value

    with mode:
        node.meta["val"] = pytree.tree_map(change, node.meta["val"])
    return changed
