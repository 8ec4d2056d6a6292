"""Sizes that grow from call to call, as those of a decoder's cache do: known from the first graph that has them.

Dynamo makes a symbol of a size when it has seen two values of it, so that the second value costs a second engine.  A
graph that returns an input with more rows behind it says already that the next call brings more rows.  Then Dynamo is
asked to trace once more, with the size as a symbol, before anything is compiled.
"""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import sympy
import torch
from torch import fx
from torch._dynamo import pgo, symbolic_convert
from torch._dynamo.exc import TensorifyScalarRestartAnalysis

_LOG = logging.getLogger("engine.torch_compile.backend")
# Data about PyTorch: Dynamo's graph is asked before any rule sees ATen.
_JOINS = frozenset({torch.cat, torch.concat, torch.concatenate, torch.ops.aten.cat.default})
_ROWS = 1024
_BYTES = 1 << 26


class Growing(NamedTuple):
    """A dim of an input that is longer in what the graph returns.

    Attributes:
        node: the placeholder.
        dim: the dim, counted from the front.
        before, after: its size in the input and in the result; symbolic where it is a symbol already.
    """

    node: fx.Node
    dim: int
    before: Any
    after: Any


def growing(module: fx.GraphModule) -> list[Growing]:
    """The inputs of a graph that it returns with computed rows behind them, whole or the last of them.

    One alone is none: what a model returns beside its input is no cache, and a cache has keys and values.
    """
    returned = set(module.graph.output_node().all_input_nodes)
    found = []
    for node in module.graph.nodes:
        if node.target not in _JOINS or not ({node, *filter(_is_slice, node.users)} & returned):
            continue
        parts = node.args[0] if node.args else node.kwargs.get("tensors")
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
        whole = _value(node)
        if type(dim) is not int or not isinstance(parts, list | tuple) or not isinstance(whole, torch.Tensor):
            continue
        given = [part for part in parts if isinstance(part, fx.Node) and part.op == "placeholder"]
        if len(given) == 1 and len(parts) > 1:
            before = _value(given[0])
            if isinstance(before, torch.Tensor) and before.dim() == whole.dim():
                place = dim % whole.dim()
                found.append(Growing(given[0], place, before.shape[place], whole.shape[place]))
    return found if len({each.node for each in found}) > 1 else []


def trace_with_symbols(module: fx.GraphModule, sources: Mapping[fx.Node, str]) -> None:
    """Let Dynamo trace the frame again where sizes that grow are numbers in its graph; else nothing happens.

    What has the length of a growing input becomes a symbol with it: the last dim of a mask, and an int that is kept
    beside the input, in the same object.

    Args:
        module: as Dynamo hands it to a backend.
        sources: placeholder -> the text by which Dynamo knows the input.

    Raises:
        TensorifyScalarRestartAnalysis: what Dynamo takes, from a backend too, as the wish to trace again.
    """
    grown = growing(module)
    known = _known_sizes() if grown else {}
    # A size of 1 stays a number whatever is asked for.
    static = [each for each in grown if type(each.before) is int and each.before > 1]
    changed = [each for each in static if _make_dynamic(known.get(sources.get(each.node, "")), each.dim)]
    if not changed:
        return
    lengths = {_seen(size) for each in changed for size in (each.before, each.after)}
    nodes = {each.node for each in grown}
    for node, name in sources.items():
        value = _value(node)
        many = isinstance(value, torch.Tensor) and value.dim() > 1 and node not in nodes
        if many and _seen(value.shape[-1]) in lengths:
            _make_dynamic(known.get(name), value.dim() - 1)
    owners = {sources[each.node].rpartition(".")[0]: each.before for each in changed}
    for name, entry in known.items():
        owner = name.rpartition(".")[0]
        if owner in owners and type(entry.scalar) is int and entry.scalar == owners[owner]:
            entry.scalar = pgo.auto_dynamic
    first = changed[0]
    reason = f"dim {first.dim} of {sources[first.node]} grows from {first.before} to {first.after}"
    _LOG.info("traced once more, because %s", reason)
    raise TensorifyScalarRestartAnalysis(restart_reason=reason)


def room_to_grow(module: fx.GraphModule) -> dict[sympy.Symbol, int]:
    """Symbols of a graph's sizes that grow -> the largest size to prepare for, where nobody gives one.

    A thousand rows, so that not every doubling of a short sequence is an engine, if an input then has at most 64 MiB.
    """
    found: dict[sympy.Symbol, int] = {}
    for each in growing(module):
        lengths = {_seen(each.before), _seen(each.after)}
        value = _value(each.node)
        row = value.element_size() * math.prod(map(_seen, value.shape)) // max(_seen(each.before), 1)
        most = min(_ROWS, _BYTES // max(row, 1))
        for node in module.graph.find_nodes(op="placeholder"):
            value = _value(node)
            for size in value.shape if isinstance(value, torch.Tensor) else (value,):
                expression = getattr(getattr(size, "node", None), "expr", None)
                if isinstance(size, torch.SymInt) and isinstance(expression, sympy.Symbol) and _seen(size) in lengths:
                    found[expression] = max(most, found.get(expression, 0))
    return found


def _seen(size: Any) -> Any:
    """A size as it is in the example."""
    return size.node.hint if isinstance(size, torch.SymInt) else size


def _is_slice(node: fx.Node) -> bool:
    """Whether a node takes a part along dims, as caches do that keep the last rows."""
    return node.target in (operator.getitem, torch.ops.aten.slice.Tensor)


def _value(node: fx.Node) -> Any:
    return node.meta.get("example_value", node.meta.get("val"))


def _known_sizes() -> dict[str, pgo.FrameStateSizeEntry]:
    """What Dynamo has seen of the inputs of the frame that it compiles, by their names; empty outside of Dynamo."""
    tracer = getattr(symbolic_convert.tls, "current_tx", None)
    if tracer is None or not torch._dynamo.config.automatic_dynamic_shapes:
        return {}
    code = tracer.f_code
    found: dict[str, pgo.FrameStateSizeEntry] = {}
    for place, state in pgo.get_code_state().items():
        if (place.name, place.firstlineno, place.filename) == (code.co_name, code.co_firstlineno, code.co_filename):
            found.update(state.automatic_dynamic)
    return found


def _make_dynamic(entry: pgo.FrameStateSizeEntry | None, dim: int) -> bool:
    """Note that a dim has changed; whether that is new."""
    if entry is None or not isinstance(entry.size, tuple) or type(entry.size[dim]) is not int:
        return False
    entry.size = (*entry.size[:dim], pgo.auto_dynamic, *entry.size[dim + 1 :])
    return True


__all__ = ["room_to_grow", "trace_with_symbols"]
