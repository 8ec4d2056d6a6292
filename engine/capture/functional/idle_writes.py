"""Writes that one of an op's own operands turns off: while that is zero, the op only computes."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.export import ExportedProgram

from engine.capture.functional.held_tensors import HELD, copied_graph, held_tensor, with_graph

# Data about PyTorch: an op that writes -> the positions of its switches, the first of which turns the writes on, and an
# op of the same arguments that writes nothing. Its first output is what the op gives, the second a mask of that shape,
# the others the new values of what the op writes to. (A scale is written even then, but is always that of the range.)
_SWITCHED: dict[Any, tuple[tuple[int, ...], OpOverload]] = {
    torch.ops.aten.fused_moving_avg_obs_fake_quant.default: (
        (1, 2),
        torch.ops.aten._fused_moving_avg_obs_fq_helper_functional.default,
    )
}


def without_idle_writes(program: ExportedProgram) -> ExportedProgram:
    """The program, or one like it whose ops do not write where a tensor that the model holds turns that off.

    To PyTorch a fused observer of quantisation-aware training writes to its scale even when it is off, so that the
    scale would be a state and no constant.
    """
    idle = [node for node in program.graph.nodes if node.target in _SWITCHED and _is_off(program, node)]
    if not idle:
        return program
    graph, copies = copied_graph(program)
    for node in idle:
        _compute(graph, copies[node])
    return with_graph(program, graph)


def _is_off(program: ExportedProgram, node: fx.Node) -> bool:
    """Whether the switch of an op's writes is a tensor of the model that is zero, and that nothing writes to."""
    switch: Any = node.args[_SWITCHED[node.target][0][0]]
    spec = next((each for each in program.graph_signature.input_specs if each.arg.name == switch.name), None)
    if spec is None or spec.kind not in HELD or not all(_only_asks(user, switch) for user in switch.users):
        return False
    held = held_tensor(program, spec)
    return held is not None and not bool(held.any())


def _only_asks(user: fx.Node, switch: fx.Node) -> bool:
    """Whether a node reads a tensor as a switch, and in no other way."""
    read = [position for position, each in enumerate(user.args) if each is switch]
    return user.target in _SWITCHED and set(read) <= set(_SWITCHED[user.target][0])


def _compute(graph: fx.Graph, node: fx.Node) -> None:
    """Put what the op computes in its place."""
    with graph.inserting_before(node):
        made = graph.call_function(_SWITCHED[node.target][1], node.args, node.kwargs)
        value = graph.call_function(operator.getitem, (made, 0))
    fake = node.meta["val"]
    written = [operand.meta["val"] for operand in map(_node, node.args[3:7])]
    made.meta = {**node.meta, "val": (fake, torch.empty_like(fake, dtype=torch.bool), *written)}
    value.meta = {**node.meta}
    name = node.name
    node.replace_all_uses_with(value)
    graph.erase_node(node)
    value.name = name


def _node(argument: Any) -> fx.Node:
    assert isinstance(argument, fx.Node)
    return argument


__all__ = ["without_idle_writes"]
