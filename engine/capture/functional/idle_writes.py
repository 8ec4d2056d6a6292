"""Writes that one of an op's own operands turns off: while that is zero, the op only computes."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

# Data about PyTorch: an op that writes -> the positions of its switches, the first of which turns the writes on, and an
# op of the same arguments that writes nothing. Its first output is what the op gives, the second a mask of that shape,
# the others the new values of what the op writes to. (A scale is written even then, but is always that of the range.)
_SWITCHED: dict[Any, tuple[tuple[int, ...], OpOverload]] = {
    torch.ops.aten.fused_moving_avg_obs_fake_quant.default: (
        (1, 2),
        torch.ops.aten._fused_moving_avg_obs_fq_helper_functional.default,
    )
}
_HELD = (InputKind.BUFFER, InputKind.PARAMETER, InputKind.CONSTANT_TENSOR)


def without_idle_writes(program: ExportedProgram) -> ExportedProgram:
    """The program, or one like it whose ops do not write where a tensor that the model holds turns that off.

    To PyTorch a fused observer of quantisation-aware training writes to its scale even when it is off, so that the
    scale would be a state and no constant.
    """
    idle = {node for node in program.graph.nodes if node.target in _SWITCHED and _is_off(program, node)}
    if not idle:
        return program
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        copied[node] = graph.node_copy(node, copied.__getitem__)
        # Signatures know nodes by names, of which some (``input``) are Python's too.
        copied[node].name = node.name
        if node in idle:
            copied[node] = _computed(graph, copied[node])
    module = fx.GraphModule(program.graph_module, graph)
    module.meta = dict(program.graph_module.meta)
    return ExportedProgram(
        root=module,
        graph=graph,
        graph_signature=program.graph_signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=program.verifiers,
    )


def _is_off(program: ExportedProgram, node: fx.Node) -> bool:
    """Whether the switch of an op's writes is a tensor of the model that is zero, and that nothing writes to."""
    switch: Any = node.args[_SWITCHED[node.target][0][0]]
    spec = next((each for each in program.graph_signature.input_specs if each.arg.name == switch.name), None)
    if spec is None or spec.kind not in _HELD or not all(_only_asks(user, switch) for user in switch.users):
        return False
    target = str(spec.target)
    held = program.state_dict[target] if target in program.state_dict else program.constants.get(target)
    return isinstance(held, torch.Tensor) and not isinstance(held, FakeTensor) and not bool(held.any())


def _only_asks(user: fx.Node, switch: fx.Node) -> bool:
    """Whether a node reads a tensor as a switch, and in no other way."""
    read = [position for position, each in enumerate(user.args) if each is switch]
    return user.target in _SWITCHED and set(read) <= set(_SWITCHED[user.target][0])


def _computed(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """What the op computes, in its place."""
    made = graph.call_function(_SWITCHED[node.target][1], node.args, node.kwargs)
    fake = node.meta["val"]
    written = [operand.meta["val"] for operand in map(_node, node.args[3:7])]
    made.meta = {**node.meta, "val": (fake, torch.empty_like(fake, dtype=torch.bool), *written)}
    value = graph.call_function(operator.getitem, (made, 0))
    value.meta = {**node.meta}
    graph.erase_node(node)
    value.name = node.name
    return value


def _node(argument: Any) -> fx.Node:
    assert isinstance(argument, fx.Node)
    return argument


__all__ = ["without_idle_writes"]
