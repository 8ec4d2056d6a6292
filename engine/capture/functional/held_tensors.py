"""What an exported program holds, and the program with another graph."""

from __future__ import annotations

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputKind, InputSpec

HELD = (InputKind.BUFFER, InputKind.PARAMETER, InputKind.CONSTANT_TENSOR)
"""The kinds of inputs that are tensors of the model."""


def held_tensor(program: ExportedProgram, spec: InputSpec) -> torch.Tensor | None:
    """The tensor of the model that is an input of a program; None where it has no values."""
    target = str(spec.target)
    tensor = program.state_dict[target] if target in program.state_dict else program.constants.get(target)
    return None if not isinstance(tensor, torch.Tensor) or isinstance(tensor, FakeTensor) else tensor


def copied_graph(program: ExportedProgram) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A copy of the graph of a program, and the copy of each of its nodes but the output."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(program.graph, copies))
    graph.output_node().meta = dict(program.graph.output_node().meta)
    for node, copied in copies.items():
        # Signatures know nodes by names, of which some (``input``) are Python's too.
        copied.name = node.name
    return graph, copies


def with_graph(
    program: ExportedProgram, graph: fx.Graph, signature: ExportGraphSignature | None = None
) -> ExportedProgram:
    """The program with another graph, of the same signature where none is given."""
    module = fx.GraphModule(program.graph_module, graph)
    module.meta = dict(program.graph_module.meta)
    return ExportedProgram(
        root=module,
        graph=graph,
        graph_signature=signature or program.graph_signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=program.verifiers,
    )


__all__ = ["HELD", "copied_graph", "held_tensor", "with_graph"]
