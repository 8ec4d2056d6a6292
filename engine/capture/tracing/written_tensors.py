"""Exported programs whose written tensors are buffers, each once: what ``run_decompositions`` can make functional.

``torch.export`` lifts what a model holds by the way it is reached.  A cache that is a buffer and also held by an object
comes as a buffer and as a constant, and one that no module registers comes as a constant.  PyTorch refuses writes to
constants, and fails with an assertion where what is written to comes twice.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

from torch import fx
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind

from engine.capture.functional.held_tensors import HELD, copied_graph, held_tensor, with_graph
from engine.capture.memory import by_memory, overlap, same_view
from engine.errors import CaptureError
from engine.graph.aliases import may_alias, written_operands


def with_written_buffers(program: ExportedProgram) -> ExportedProgram:
    """The program, or one like it in which every held tensor that is written to is one buffer, and comes once.

    Raises:
        CaptureError: the model writes to a tensor that shares its memory with another one that it holds.
    """
    held = {spec.arg.name: spec for spec in program.graph_signature.input_specs if spec.kind in HELD}
    found = {name: held_tensor(program, spec) for name, spec in held.items()}
    tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
    written = [name for name in _written(program, held) if name in tensors]
    merged: dict[str, str] = {}
    near = by_memory(tensors) if written else {}
    for name in written:
        twins = [other for other in near[name] if same_view(tensors[name], tensors[other])]
        # A registered name says more than that of a constant.
        first = min(twins, key=lambda twin: held[twin].kind is InputKind.CONSTANT_TENSOR)
        merged.update({twin: first for twin in twins if twin != first})
        for other in near[name]:
            if other not in twins and overlap(tensors[name], tensors[other]):
                raise CaptureError(
                    f"the model writes to {held[first].target!r}, whose memory it sees in another way as "
                    f"{held[other].target!r}: keep one of them, and take the other from it in forward"
                )
    made = {merged.get(name, name) for name in written}
    turned = {name for name in made if held[name].kind is InputKind.CONSTANT_TENSOR}
    if not merged and not turned:
        return program
    return _rewritten(program, merged, turned)


def _written(program: ExportedProgram, held: Mapping[str, InputSpec]) -> list[str]:
    """The inputs among ``held`` that are written to, in order."""
    origins: dict[fx.Node, set[str]] = {}
    found: dict[str, None] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            origins[node] = {node.name} if node.name in held else set()
            continue
        if node.op != "call_function" or not isinstance(node.target, OpOverload):
            continue
        for operand in written_operands(node):
            found.update(dict.fromkeys(sorted(origins.get(operand, ()))))
        if may_alias(node):
            origins[node] = set().union(*(origins.get(operand, set()) for operand in node.all_input_nodes))
    for spec in program.graph_signature.output_specs:
        if spec.kind in (OutputKind.BUFFER_MUTATION, getattr(OutputKind, "PARAMETER_MUTATION", None)):
            known = [s.arg.name for s in program.graph_signature.input_specs if s.target == spec.target]
            found.update(dict.fromkeys(name for name in known if name in held))
    return list(found)


def _rewritten(program: ExportedProgram, merged: dict[str, str], turned: set[str]) -> ExportedProgram:
    graph, _ = copied_graph(program)
    nodes = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    for name, first in merged.items():
        nodes[name].replace_all_uses_with(nodes[first])
        graph.erase_node(nodes[name])
    signature = copy.copy(program.graph_signature)
    signature.input_specs = [
        replace(spec, kind=InputKind.BUFFER, persistent=False) if spec.arg.name in turned else spec
        for spec in program.graph_signature.input_specs
        if spec.arg.name not in merged
    ]
    return with_graph(program, graph, signature)


__all__ = ["with_written_buffers"]
