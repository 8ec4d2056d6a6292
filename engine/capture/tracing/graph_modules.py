"""Graph modules of ATen ops as exported programs, which go the same way from there, whatever tracer made them.

``make_fx``, ``aot_export_module`` and passes over graphs leave ops of any opset: composites in their parts, writes in
place, primitives.  What such a graph knows of its inputs is in the fake values of its placeholders.
"""

from __future__ import annotations

import operator
from typing import Any, TypeGuard, cast

import torch
from torch import fx
from torch._export.verifier import TrainingIRVerifier
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram, ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ArgumentSpec,
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    SymBoolArgument,
    SymFloatArgument,
    SymIntArgument,
    TensorArgument,
)
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from engine.capture.pytrees import plain
from engine.errors import CaptureError

_SCALARS: dict[type, Any] = {
    torch.SymInt: SymIntArgument,
    torch.SymFloat: SymFloatArgument,
    torch.SymBool: SymBoolArgument,
}


def knows_its_inputs(module: Any) -> TypeGuard[fx.GraphModule]:
    """Whether a module is a graph of ATen ops whose nodes have the fake values that they were traced with."""
    if not isinstance(module, fx.GraphModule):
        return False
    for node in module.graph.nodes:
        if node.op == "call_function":
            known = isinstance(node.target, OpOverload | HigherOrderOperator) or _is_symbolic(node)
            if not known or "val" not in node.meta:
                return False
        elif node.op in ("call_module", "call_method") or (node.op == "placeholder" and "val" not in node.meta):
            return False
    return True


def _is_symbolic(node: fx.Node) -> bool:
    """Whether a call that is no ATen op is a ``getitem`` or computes a size."""
    module = getattr(node.target, "__module__", "")
    return module in ("_operator", "math", "torch") and (
        getattr(node.target, "__name__", "") == "getitem"
        or not isinstance(node.meta.get("val"), torch.Tensor | list | tuple)
    )


def program_of(module: fx.GraphModule) -> ExportedProgram:
    """The exported program of a graph module that :func:`knows_its_inputs`; it shares the module's tensors.

    Raises:
        CaptureError: an attribute that the graph reads is neither a tensor nor a graph.
    """
    mode, shape_env = _environment(module)
    held = _Held(module)
    graph = fx.Graph()
    copies: dict[fx.Node, Any] = {}
    inputs: list[InputSpec] = []
    # What a program holds comes before its arguments, once.
    placeholders: dict[str, fx.Node] = {}
    for node in module.graph.nodes:
        target = str(node.target)
        if node.op == "get_attr" and target in held.tensors:
            if target not in placeholders:
                placeholders[target] = graph.create_node("placeholder", node.name, name=node.name)
                placeholders[target].meta = {"val": held.tensors[target], **node.meta}
                inputs.append(held.spec(target, node.name))
            copies[node] = placeholders[target]
    for node in module.graph.nodes:
        if node not in copies and node.op != "output":
            copies[node] = graph.node_copy(node, lambda operand: copies[operand])
        if node.op == "placeholder":
            inputs.append(InputSpec(InputKind.USER_INPUT, _argument(node), None))
    for node in graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = pytree.tree_map_only(torch.Tensor, lambda each: _fake(each, mode), node.meta["val"])
    call, results = _call(module)
    results = [copies[result] if isinstance(result, fx.Node) else result for result in results]
    graph.output(tuple(results))
    outputs = [OutputSpec(OutputKind.USER_OUTPUT, _argument(result), None) for result in results]
    return ExportedProgram(
        root=fx.GraphModule(held.graphs, graph),
        graph=graph,
        graph_signature=ExportGraphSignature(inputs, outputs),
        state_dict=held.state_dict,
        range_constraints=dict(shape_env.var_to_range),
        module_call_graph=[ModuleCallEntry(fqn="", signature=call)],
        constants=cast(dict[str, Any], held.constants),
        verifiers=[TrainingIRVerifier],
    )


class _Held:
    """What a graph reads of its module: tensors by name, in the state dict or not, and graphs."""

    def __init__(self, module: fx.GraphModule) -> None:
        kept = module.state_dict(keep_vars=True)
        self.tensors: dict[str, torch.Tensor] = {}
        self.graphs: dict[str, Any] = {}
        for target in dict.fromkeys(str(node.target) for node in module.graph.nodes if node.op == "get_attr"):
            value = operator.attrgetter(target)(module)
            if isinstance(value, fx.GraphModule):
                self.graphs[target] = value
            elif isinstance(value, torch.Tensor):
                self.tensors[target] = value
            else:
                raise CaptureError(
                    f"attribute {target!r} of the graph is a {type(value).__name__}, not a tensor or a graph"
                )
        self.state_dict = {name: tensor for name, tensor in self.tensors.items() if name in kept}
        self.constants = {name: tensor for name, tensor in self.tensors.items() if name not in kept}

    def spec(self, target: str, name: str) -> InputSpec:
        """Of the input that a tensor becomes."""
        stays = target in self.state_dict
        if stays and isinstance(self.tensors[target], torch.nn.Parameter):
            return InputSpec(InputKind.PARAMETER, TensorArgument(name), target)
        return InputSpec(InputKind.BUFFER, TensorArgument(name), target, persistent=stays)


def _environment(module: fx.GraphModule) -> tuple[FakeTensorMode, ShapeEnv]:
    """One mode for all values of a graph: ``make_fx`` gives each its own where it traces real tensors."""
    values = pytree.tree_leaves([node.meta.get("val") for node in module.graph.nodes])
    modes = {id(value.fake_mode): value.fake_mode for value in values if isinstance(value, FakeTensor)}
    mode = next((each for each in modes.values() if each.shape_env is not None), None)
    if mode is None:
        mode = FakeTensorMode(shape_env=ShapeEnv(), export=True)
    assert mode.shape_env is not None
    return mode, mode.shape_env


def _fake(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    if isinstance(tensor, FakeTensor) and tensor.fake_mode is mode:
        return tensor
    with mode:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def _argument(item: Any) -> ArgumentSpec:
    value = item.meta.get("val") if isinstance(item, fx.Node) else item
    name = item.name if isinstance(item, fx.Node) else ""
    if isinstance(value, torch.Tensor):
        return TensorArgument(name)
    kind = _SCALARS.get(type(value))
    return ConstantArgument(name, value) if kind is None else kind(name)


def _call(module: fx.GraphModule) -> tuple[ModuleCallSignature, list[Any]]:
    """How a graph is called and what it returns, and its results one after the other."""
    names = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    given = pytree.tree_structure((tuple(names), {}))
    results, returned = pytree.tree_flatten(plain(module.graph.output_node().args[0]))
    info = getattr(module.graph._codegen, "pytree_info", None)
    if info is not None:
        names, returned = [name for name in info.orig_args if name != "self"], info.out_spec or returned
        call = pytree.tree_unflatten(list(range(info.in_spec.num_leaves)), info.in_spec)
        # Some tracers describe the positional arguments, some these and the keywords.
        both = len(call) == 2 and isinstance(call[0], tuple) and isinstance(call[1], dict)
        given = info.in_spec if both else pytree.tree_structure((call, {}))
    signature = ModuleCallSignature(inputs=[], outputs=[], in_spec=given, out_spec=returned, forward_arg_names=names)
    return signature, results


__all__ = ["knows_its_inputs", "program_of"]
