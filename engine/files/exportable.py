"""A compiled module as a graph of ops alone, engines included: what TorchScript and ``torch.export`` can hold."""

from __future__ import annotations

import operator
from typing import Any

import sympy
import torch
from torch import fx, nn

from engine.capture.inputs import range_of
from engine.capture.signature import Argument
from engine.compiled.module import CompiledModule
from engine.errors import SaveError
from engine.inductor.grouping import inlined
from engine.runtime import TensorSpec, TorchTensorRTModule
from engine.runtime.records.engine_op import engine_object, registered_by
from engine.runtime.records.metadata import record_of


def exportable(module: CompiledModule, *, checks: bool = True) -> fx.GraphModule:
    """A graph that calls ``tensorrt::execute_engine`` for every engine.

    It takes the tensors and sizes of the module's arguments in order, without their containers and without
    constants, and returns the leaves of the results as a flat tuple.

    Args:
        checks: say of outputs of engines which of their sizes are sizes that the engine is given, for tracers.

    Raises:
        SaveError: the graph holds something else than ops, engines and tensors.
        RuntimeUnavailable: the op cannot be registered in this process.
    """
    registered_by()
    source = inlined(module.graph_module)
    report = module.report
    root = nn.Module()
    graph = fx.Graph()
    done: dict[fx.Node, fx.Node] = {}
    for node in source.graph.nodes:
        if node.op == "call_module":
            held = getattr(source, str(node.target))
            if not isinstance(held, TorchTensorRTModule):
                raise SaveError(f"node {node.name!r} calls a {type(held).__name__}, which is not an engine")
            if not hasattr(root, str(node.target)):
                record = record_of(held, tensorrt=report.tensorrt, compute_capabilities=report.compute_capabilities)
                setattr(root, str(node.target), engine_object(record))
            done[node] = _engine(graph, held, str(node.target), [done[value] for value in node.args], checks)
            continue
        if node.op == "get_attr":
            tensor = getattr(source, str(node.target))
            if not isinstance(tensor, torch.Tensor):
                raise SaveError(f"node {node.name!r} holds a {type(tensor).__name__}, which TorchScript cannot take")
            if not hasattr(root, str(node.target)):
                root.register_buffer(str(node.target), tensor)
        done[node] = graph.node_copy(node, done.__getitem__)
    for node, argument in zip(_placeholders(graph), live_arguments(module), strict=True):
        node.type = torch.Tensor if argument.shape is not None else int
    made = fx.GraphModule(root, graph, class_name="ExportedEngines")
    made._non_persistent_buffers_set.update(source._non_persistent_buffers_set)
    return made


def _engine(graph: fx.Graph, held: TorchTensorRTModule, name: str, inputs: list[fx.Node], checks: bool) -> fx.Node:
    specs = held.input_specs or [None] * len(inputs)
    given = [
        value
        if spec is None or isinstance(spec, TensorSpec)
        else graph.call_function(torch.ops.aten.scalar_tensor.default, (value,), {"dtype": torch.int64})
        for value, spec in zip(inputs, specs, strict=True)
    ]
    call = graph.call_function(torch.ops.tensorrt.execute_engine.default, (given, graph.get_attr(name)))
    if checks:
        sizes = {spec: value for value, spec in zip(inputs, specs, strict=True) if isinstance(spec, sympy.Expr)}
        for index, output in enumerate(held.output_specs or ()):
            for dim, size in enumerate(output.shape):
                if size in sizes:
                    result = graph.call_function(operator.getitem, (call, index))
                    found = graph.call_function(torch.ops.aten.sym_size.int, (result, dim))
                    graph.call_function(torch._check, (graph.call_function(operator.eq, (found, sizes[size])),))
    # A module of one output returns it, the op always a list.
    single = len(held.output_binding_names) == 1
    return graph.call_function(operator.getitem, (call, 0)) if single else call


def _placeholders(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


def live_arguments(module: CompiledModule) -> list[Argument]:
    """The arguments that the graph takes, in order."""
    return [argument for argument in module._signature.arguments if not argument.is_constant]


def example_inputs(module: CompiledModule, device: torch.device | str) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Inputs of the usual sizes for the graph of `exportable`, and which of their dims may change.

    Returns:
        the inputs, and ``dynamic_shapes`` for ``torch.export.export``.
    """
    ranges = module._signature.ranges
    # A dim of size 1 or 0 would be taken for a constant, so a symbol's example is 2 at least, where it can be.
    examples = {
        symbol: max(range_.opt, min(2, range_.max)) if isinstance(symbol, sympy.Symbol) else range_.opt
        for symbol, range_ in ranges.items()
    }
    inputs: list[Any] = []
    dynamic: list[Any] = []
    for argument in live_arguments(module):
        if argument.shape is None:
            size = argument.symbol
            inputs.append(size if isinstance(size, int) else int(size.subs(examples)))  # type: ignore[union-attr]
            dynamic.append(None if isinstance(size, int) else torch.export.Dim.DYNAMIC)
            continue
        shape = [size if isinstance(size, int) else int(size.subs(examples)) for size in argument.shape]
        assert argument.dtype is not None
        inputs.append(torch.ones(shape, dtype=argument.dtype, device=device))
        dynamic.append(
            {dim: _dim(size, ranges) for dim, size in enumerate(argument.shape) if not isinstance(size, int)}
        )
    return tuple(inputs), tuple(spec or None for spec in dynamic)


def _dim(size: Any, ranges: Any) -> Any:
    bounds = range_of(size, ranges)
    if isinstance(size, sympy.Symbol):
        return torch.export.Dim(size.name, min=bounds.min, max=bounds.max)
    return torch.export.Dim.DYNAMIC


__all__ = ["example_inputs", "exportable", "live_arguments"]
