"""Exported programs that write nothing: what they wrote to before are results."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._higher_order_ops.map import map_impl
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram, ModuleCallEntry
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    OutputKind,
    OutputSpec,
    TensorArgument,
)

from engine.capture.functional.composites import is_taken_apart
from engine.capture.functional.counterparts import is_write
from engine.capture.functional.views import is_trained
from engine.capture.functional.writes import Functional, NotShown, is_inlined
from engine.capture.tracing.primitives import by_aten
from engine.capture.tracing.written_tensors import with_written_buffers
from engine.graph.provenance import describe

# Ops that run graphs, and have the same graphs when a program is traced once more.
_RUNNING = frozenset(
    {torch.ops.higher_order.cond, torch.ops.higher_order.while_loop, torch.ops.higher_order.scan, map_impl}
    # From PyTorch 2.14 on.
    | {getattr(torch.ops.higher_order, "switch", map_impl)}
)
_KINDS = {
    InputKind.PARAMETER: OutputKind.PARAMETER_MUTATION,
    InputKind.BUFFER: OutputKind.BUFFER_MUTATION,
    InputKind.USER_INPUT: OutputKind.USER_INPUT_MUTATION,
}


@dataclass(frozen=True)
class FunctionalProgram:
    """The parts of an exported program, whose graph writes to nothing; composite ops are whole."""

    graph: fx.Graph
    graph_module: fx.GraphModule
    graph_signature: ExportGraphSignature
    state_dict: Mapping[str, Any]
    constants: Mapping[str, Any]
    call_spec: Any
    module_call_graph: list[ModuleCallEntry]
    range_constraints: dict[Any, Any]
    example_inputs: tuple[tuple[Any, ...], dict[str, Any]] | None


def functional_program(program: ExportedProgram) -> FunctionalProgram:
    """A program made functional as it is, without tracing it once more.

    Raises:
        NotShown: it cannot be shown that its values stay what they are.
        CaptureError: the model writes to a tensor that shares its memory with another one that it holds.
    """
    _check_tensors(program)
    writes = False
    for node in program.graph.nodes:
        writes = writes or is_write(node.target) or is_taken_apart(node.target) or is_inlined(node)
        if isinstance(node.target, HigherOrderOperator) and node.target not in _RUNNING and not is_inlined(node):
            raise NotShown(f"{describe(node)} is an op whose graphs PyTorch writes anew")
        if is_trained(node):
            raise NotShown(f"{describe(node)} writes to its operands")
        if by_aten(node.target) is not None:
            raise NotShown(f"{describe(node)} is a primitive, which is computed by ATen ops")
    if not writes:
        return _parts(program, program.graph, program.graph_signature)
    if any(spec.kind is not OutputKind.USER_OUTPUT for spec in program.graph_signature.output_specs):
        raise NotShown("the program writes to tensors, and gives what it writes as results")
    program = with_written_buffers(program)
    made = Functional(program.graph)
    results = program.graph.output_node().args[0]
    outputs: Any = fx.node.map_arg(results, made.value)
    specs = [
        OutputSpec(spec.kind, TensorArgument(value.name), spec.target)
        if isinstance(value, fx.Node) and isinstance(spec.arg, TensorArgument)
        else spec
        for spec, value in zip(program.graph_signature.output_specs, outputs, strict=True)
    ]
    written = made.written()
    inputs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    mutations = [
        OutputSpec(
            _kind(inputs[name].kind),
            TensorArgument(value.name),
            name if inputs[name].kind is InputKind.USER_INPUT else inputs[name].target,
        )
        for name, value in written.items()
    ]
    made.graph.output((*written.values(), *outputs))
    signature = copy.copy(program.graph_signature)
    signature.output_specs = [*mutations, *specs]
    return _parts(program, made.graph, signature)


def _kind(kind: InputKind) -> OutputKind:
    if kind not in _KINDS:
        raise NotShown(f"the program writes to a {kind.name.lower().replace('_', ' ')}")
    return _KINDS[kind]


def _check_tensors(program: ExportedProgram) -> None:
    """Raises ``NotShown`` for tensors that are made of others, which PyTorch takes apart when it traces."""
    for name, tensor in (*program.state_dict.items(), *program.constants.items()):
        plain = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer, FakeTensor)
        if isinstance(tensor, torch.Tensor) and type(tensor) not in plain:
            raise NotShown(f"{name!r} is a {type(tensor).__name__}")


def _parts(program: ExportedProgram, graph: fx.Graph, signature: ExportGraphSignature) -> FunctionalProgram:
    return FunctionalProgram(
        graph,
        program.graph_module,
        signature,
        program.state_dict,
        program.constants,
        program.call_spec,
        program.module_call_graph,
        program.range_constraints,
        program.example_inputs,
    )


__all__ = ["FunctionalProgram", "functional_program"]
