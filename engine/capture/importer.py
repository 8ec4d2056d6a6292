"""From what torch.export (or another tracer) made to the canonical graph: one walk, nothing copied."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from engine.capture.complex_numbers import make_complex_numbers_tensors
from engine.capture.functional.program import FunctionalProgram
from engine.capture.memory import by_memory, overlap
from engine.capture.state import State
from engine.capture.strided import lay_out_strided
from engine.errors import CaptureError
from engine.graph.canonical import canonicalise
from engine.graph.provenance import model_line
from engine.graph.subgraph import Subgraph

_PARAMETERS = (InputKind.PARAMETER, InputKind.BUFFER)


@dataclass
class Imported:
    """A canonical graph with its constants; ``inputs`` has a placeholder, or a constant, per leaf of the call.

    ``prefix`` is what the names of its own constants and graphs begin with.  After the results of the model the graph
    returns the new values of the placeholders named in ``written``: inputs and ``states`` that it writes to.
    """

    graph: fx.Graph
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    submodules: dict[str, fx.GraphModule] = field(default_factory=dict)
    inputs: list[fx.Node | ConstantArgument] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    prefix: str = ""

    def environment(self) -> tuple[FakeTensorMode, ShapeEnv]:
        """The mode of the graph's fake tensors and its shape environment."""
        for node in self.graph.nodes:
            values = node.meta.get("val")
            for value in values if isinstance(values, list | tuple) else (values,):
                if isinstance(value, FakeTensor):
                    mode = value.fake_mode
                    if mode.shape_env is None:
                        mode.shape_env = ShapeEnv()
                    return mode, mode.shape_env
        mode = FakeTensorMode(shape_env=ShapeEnv())
        assert mode.shape_env is not None
        return mode, mode.shape_env


def import_program(program: ExportedProgram | FunctionalProgram) -> Imported:
    """The canonical graph of an exported program; raises ``CaptureError`` where it has other effects than writes.

    Its calls must be functional, as ``run_decompositions`` leaves them: what it writes are results.
    """
    writes = _writes(program)
    graph = fx.Graph()
    imported = Imported(graph)
    copies: dict[fx.Node, Any] = {}
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    lifted: list[tuple[fx.Node, str, torch.Tensor]] = []
    kept: list[tuple[fx.Node, str, torch.Tensor, bool]] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            node = nodes[spec.arg.name]
            if isinstance(spec.arg, ConstantArgument):
                copies[node] = spec.arg.value
                imported.inputs.append(spec.arg)
            else:
                copies[node] = graph.node_copy(node)
                imported.inputs.append(copies[node])
        elif spec.kind in (*_PARAMETERS, InputKind.CONSTANT_TENSOR):
            assert spec.target is not None
            node, tensor = nodes[spec.arg.name], _tensor(program, spec.target, nodes[spec.arg.name])
            if spec.arg.name in writes:
                kept.append((node, spec.target, tensor, spec.persistent is not False))
            else:
                lifted.append((node, spec.target, tensor))
        else:
            raise CaptureError(
                f"input {spec.arg.name!r} of the exported program is a {spec.kind.name.lower().replace('_', ' ')}; "
                "only tensors and Python scalars can be compiled"
            )
    for node, target, tensor, persistent in kept:
        copies[node] = graph.node_copy(node)
        imported.states.append(State(target, copies[node].name, tensor, persistent))
    _check_apart(imported.states, [(target, tensor) for _, target, tensor in lifted])
    _add_constants(imported, copies, lifted)
    _copy_calls(imported, copies, program.graph, program.graph_module)
    results = program.graph.output_node().args[0]
    specs = program.graph_signature.output_specs
    outputs = [
        fx.node.map_arg(result, lambda node: copies[node])
        for result, spec in zip(results, specs, strict=True)  # type: ignore[arg-type]
        if spec.kind is OutputKind.USER_OUTPUT
    ]
    values = {spec.arg.name: result for result, spec in zip(results, specs, strict=True)}  # type: ignore[arg-type]
    for name, value in writes.items():
        imported.written.append(copies[nodes[name]].name)
        outputs.append(copies[values[value]])
    graph.output(tuple(outputs))
    return _finished(imported)


def import_graph_module(module: fx.GraphModule) -> Imported:
    """The canonical graph of a functional ATen graph module whose nodes have their fake values."""
    graph = fx.Graph()
    imported = Imported(graph)
    copies: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor | torch.SymInt):
                copies[node] = graph.node_copy(node)
                imported.inputs.append(copies[node])
            else:
                copies[node] = value
                imported.inputs.append(ConstantArgument(name=node.name, value=value))
    _copy_calls(imported, copies, module.graph, module)
    leaves = torch.utils._pytree.tree_leaves(module.graph.output_node().args[0])
    graph.output(tuple(copies[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in leaves))
    return _finished(imported)


def import_subgraph(
    subgraph: Subgraph, name: str, known: Sequence[fx.Node | None], constants: dict[str, torch.Tensor]
) -> Imported:
    """The canonical graph that a higher-order op runs; raises ``CaptureError`` where it has effects.

    Args:
        name: what the names of its nodes begin with.
        known: per input the ``get_attr`` node of the graph around it that it always is, or None.
        constants: of the graph around it; those of this graph are added under names of their own.

    Returns:
        The graph; ``inputs`` are those that are not known, and ``constants`` the dict that was given.
    """
    graph = fx.Graph()
    imported = Imported(graph, constants, prefix=f"{name}.")
    copies: dict[fx.Node, Any] = {}
    placeholders = [node for node in subgraph.module.graph.nodes if node.op == "placeholder"]
    if len(placeholders) != len(known):
        raise CaptureError(f"{subgraph!r} takes {len(placeholders)} inputs, it is given {len(known)}")
    # Inputs first: constants may be anywhere.
    for node, constant in zip(placeholders, known, strict=True):
        if constant is None:
            copies[node] = graph.create_node("placeholder", f"{name}_{node.name}", name=f"{name}_{node.name}")
            copies[node].meta = dict(node.meta)
            imported.inputs.append(copies[node])
    for node, constant in zip(placeholders, known, strict=True):
        if constant is not None:
            copies[node] = graph.create_node("get_attr", str(constant.target), name=f"{name}_{node.name}")
            copies[node].meta = dict(constant.meta)
    _copy_calls(imported, copies, subgraph.module.graph, subgraph.module, f"{name}_")
    leaves = torch.utils._pytree.tree_leaves(subgraph.module.graph.output_node().args[0])
    graph.output(tuple(copies[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in leaves))
    _check_functional(graph)
    _put_in_form(graph)
    return imported


def _writes(program: ExportedProgram | FunctionalProgram) -> dict[str, str]:
    """The inputs of a functional program that it writes to -> the result that is the new value of each."""
    held = {spec.target: spec.arg.name for spec in program.graph_signature.input_specs if spec.target is not None}
    found: dict[str, str] = {}
    for spec in program.graph_signature.output_specs:
        if spec.kind in (OutputKind.BUFFER_MUTATION, getattr(OutputKind, "PARAMETER_MUTATION", None)):
            found[held[spec.target]] = spec.arg.name
        elif spec.kind is OutputKind.USER_INPUT_MUTATION:
            found[str(spec.target)] = spec.arg.name
        elif spec.kind is not OutputKind.USER_OUTPUT:
            raise CaptureError(
                f"the exported program has a {spec.kind.name.lower().replace('_', ' ')} output ({spec.target}); "
                "only inference programs can be compiled"
            )
    # What becomes itself (an update whose condition was false when it was traced) is not written to.
    return {name: value for name, value in found.items() if name != value}


def _check_apart(states: Sequence[State], constants: Sequence[tuple[str, torch.Tensor]]) -> None:
    """Raises ``CaptureError`` for a state that shares memory with something else that the model holds."""
    others = [*((state.name, state.tensor) for state in states), *constants]
    near = by_memory(dict(enumerate(tensor for _, tensor in others))) if states else {}
    for position, state in enumerate(states):
        for name, tensor in (others[other] for other in near[position] if other > position):
            if overlap(state.tensor, tensor):
                raise CaptureError(
                    f"the model writes to {state.name!r}, which shares its memory with {name!r}, and the program takes "
                    "them for two tensors: give each its own, or keep one and take the other from it in forward"
                )


def _tensor(program: ExportedProgram | FunctionalProgram, target: str, node: fx.Node) -> torch.Tensor:
    source: Mapping[str, Any] = program.state_dict if target in program.state_dict else program.constants
    tensor = source[target]
    if not isinstance(tensor, torch.Tensor):
        raise CaptureError(f"constant {target!r} of the exported program is a {type(tensor).__name__}, not a tensor")
    if target not in program.state_dict and isinstance(tensor, FakeTensor | FunctionalTensor):
        _refuse_fake(target, node)
    return tensor.detach()


def _refuse_fake(target: str, node: fx.Node) -> NoReturn:
    """Raises ``CaptureError`` for a constant that is what was left of a tensor while it was traced."""
    line = next(filter(None, map(model_line, node.users)), "")
    at = f"\n  at {line}" if line else ""
    raise CaptureError(
        f"tensor {target!r} of the captured graph has no values: the model reads a tensor in a way that tracing does "
        "not see, or keeps one of an earlier trace (in a global variable or a cache of functools, which torch.export "
        "fills with fake tensors). Use the tensor itself, or tensor.detach(), and empty such caches before compiling"
        f"{at}"
    )


def _add_constants(
    imported: Imported, copies: dict[fx.Node, Any], lifted: list[tuple[fx.Node, str, torch.Tensor]]
) -> None:
    by_storage: dict[Any, fx.Node] = {}
    for node, target, tensor in lifted:
        identity = _identity(tensor)
        shared = by_storage.get(identity)
        if shared is not None:
            copies[node] = shared
            imported.tied[target] = str(shared.target)
            continue
        constant = imported.graph.create_node("get_attr", target, name=node.name)
        constant.meta = dict(node.meta)
        copies[node] = by_storage[identity] = constant
        imported.constants[target] = tensor


def _identity(tensor: torch.Tensor) -> Any:
    """Equal for tensors that are the same memory seen the same way (tied weights)."""
    if type(tensor) is not torch.Tensor or tensor.layout is not torch.strided or tensor.numel() == 0:
        return id(tensor)
    if isinstance(tensor, FakeTensor) or tensor.data_ptr() == 0:
        return id(tensor)
    return (
        tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device,
        tensor.is_conj(), tensor.is_neg(),
    )  # fmt: skip


def _copy_calls(
    imported: Imported, copies: dict[fx.Node, Any], graph: fx.Graph, owner: torch.nn.Module, prefix: str = ""
) -> None:
    for node in graph.nodes:
        if node.op == "get_attr":
            copies[node] = imported.graph.create_node("get_attr", str(node.target), name=prefix + node.name)
            copies[node].meta = dict(node.meta)
            _add_attribute(imported, copies[node], owner)
        elif node.op == "call_function":
            # Constant inputs are substituted by their values, which ``node_copy`` does not do for us.
            copies[node] = imported.graph.create_node(
                node.op,
                node.target,
                fx.node.map_arg(node.args, lambda n: copies[n]),
                fx.node.map_arg(node.kwargs, lambda n: copies[n]),
                name=prefix + node.name,
            )
            copies[node].meta = dict(node.meta)


def _add_attribute(imported: Imported, node: fx.Node, owner: torch.nn.Module) -> None:
    target = str(node.target)
    value: Any = operator.attrgetter(target)(owner)
    node.target = target = imported.prefix + target
    if isinstance(value, fx.GraphModule):
        imported.submodules[target] = value
        node.meta["graph"] = Subgraph(target, value)
    elif isinstance(value, torch.Tensor):
        if isinstance(value, FunctionalTensor):
            _refuse_fake(target, node)
        imported.constants[target] = value.detach()
        if "val" not in node.meta:
            mode, _ = imported.environment()
            node.meta["val"] = mode.from_tensor(imported.constants[target], static_shapes=True)
    else:
        raise CaptureError(f"attribute {target!r} of the graph is a {type(value).__name__}, not a tensor or a graph")


def _finished(imported: Imported) -> Imported:
    graph = imported.graph
    _check_functional(graph)
    make_complex_numbers_tensors(graph, imported.constants, imported.environment()[0])
    _put_in_form(graph)
    used = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    imported.constants = {name: tensor for name, tensor in imported.constants.items() if name in used}
    imported.tied = {name: other for name, other in imported.tied.items() if other in used}
    imported.submodules = {name: module for name, module in imported.submodules.items() if name in used}
    return imported


def _check_functional(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if isinstance(node.target, OpOverload) and node.target._schema.is_mutable:
            raise CaptureError(
                f"{node.target} writes to its input in place; the graph must be functional "
                "(torch.export and run_decompositions make it so)"
            )


def _put_in_form(graph: fx.Graph) -> None:
    lay_out_strided(graph)
    canonicalise(graph)
    graph.lint()
