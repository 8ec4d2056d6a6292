"""Graphs for tests: exported, and brought into canonical form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.capture.tracing.decomposition_cache import remembered_composites
from engine.graph.arguments import in_schema_order, split
from engine.graph.mirror import Mirror


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def mirror_of(model: nn.Module | Callable[..., Any], inputs: Sequence[Any], dynamic_shapes: Any = None) -> Mirror:
    """The mirror of an exported model; user inputs are placeholders, everything else is ``get_attr``."""
    module = model if isinstance(model, nn.Module) else Function(model)
    if dynamic_shapes is not None and not isinstance(model, nn.Module):
        dynamic_shapes = (dynamic_shapes,)
    program = torch.export.export(module.eval(), tuple(inputs), dynamic_shapes=dynamic_shapes, strict=False)
    with remembered_composites():
        program = program.run_decompositions({})
    signature = program.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    named.update(signature.inputs_to_lifted_tensor_constants)
    state = {**program.state_dict, **program.constants}
    graph, constants = fx.Graph(), {}
    copies: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in named:
            constants[named[node.name]] = state[named[node.name]]
            copy = graph.create_node("get_attr", named[node.name])
        else:
            copy = graph.node_copy(node, copies.__getitem__)
        copy.meta = dict(node.meta)
        if isinstance(copy.target, torch._ops.OpOverload):
            copy.args, copy.kwargs = split(copy.target, in_schema_order(copy))
        copies[node] = copy
    mode = next(n.meta["val"].fake_mode for n in graph.nodes if isinstance(n.meta.get("val"), torch.Tensor))
    assert isinstance(mode, FakeTensorMode)
    return Mirror(graph, constants, mode, mode.shape_env)


def run(mirror: Mirror, *inputs: Any) -> Any:
    """Run the graph eagerly."""
    mirror.graph.lint()
    root = nn.Module()
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in mirror.graph.nodes:
        if node.op == "get_attr":
            name = str(node.target).replace(".", "_")
            root.register_buffer(name, mirror.constants[str(node.target)])
            copies[node] = graph.get_attr(name)
        else:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return fx.GraphModule(root, graph)(*inputs)


def find(mirror: Mirror, op: str, number: int = 0) -> fx.Node:
    """The ``number``-th node with an op."""
    return [node for node in mirror.graph.nodes if mirror.op(node) == op][number]


__all__ = ["find", "mirror_of", "run"]
