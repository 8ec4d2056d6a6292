"""Assembly: the partitioned graph as an ``fx.GraphModule`` whose engines are ``TorchTensorRTModule``."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence

import sympy
import torch
from torch import fx, nn

from engine.graph.mirror import Mirror, Value
from engine.lowering.explicit_dtypes import make_dtypes_explicit
from engine.lowering.snapshot import ModelMemory
from engine.partitioner import Partition, Segment


def assemble(
    mirror: Mirror,
    partition: Partition,
    modules: Mapping[str, nn.Module],
    scalars: Mapping[str, Sequence[sympy.Expr]],
    submodules: Mapping[str, nn.Module] | None = None,
    memory: ModelMemory | None = None,
) -> fx.GraphModule:
    """Build the graph module that runs the segments in order.

    Args:
        modules: segment name -> module that takes the segment's inputs, then its scalars, and returns its outputs.
        scalars: segment name -> sizes that its network takes as extra inputs.
        submodules: target of a ``get_attr`` node -> graph that a higher-order op runs.
        memory: of the model, which the module shares with it in nothing.

    Returns:
        A module that takes the user's tensors in order and returns the flat tuple of outputs.
    """
    assembler = _Assembler(mirror, submodules or {}, memory or ModelMemory(()))
    for node in mirror.graph.nodes:
        if node.op == "placeholder":
            assembler.copy(node)
    for segment in partition.segments:
        if segment.backend == "tensorrt":
            assembler.engine(segment, modules[segment.name], scalars.get(segment.name, ()))
        else:
            for node in segment.nodes:
                assembler.copy(node)
    return assembler.finish()


class _Assembler:
    def __init__(self, mirror: Mirror, submodules: Mapping[str, nn.Module], memory: ModelMemory) -> None:
        self.memory = memory
        self.mirror = mirror
        self.submodules = submodules
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.nodes: dict[fx.Node, fx.Node] = {}
        self.outputs: dict[Value, fx.Node] = {}
        self.buffers: dict[str, str] = {}

    def engine(self, segment: Segment, module: nn.Module, scalars: Sequence[sympy.Expr]) -> None:
        self.root.add_module(segment.name, module)
        inputs = [self.value(value) for value in segment.inputs]
        inputs += [self.size(expression) for expression in scalars]
        call = self.graph.call_module(segment.name, tuple(inputs))
        single = len(segment.outputs) == 1
        for index, value in enumerate(segment.outputs):
            output = call if single else self.graph.call_function(operator.getitem, (call, index))
            output.meta.update(value.node.meta)
            output.meta["val"] = self.mirror.fake(value)
            self.outputs[value] = output

    def size(self, expression: sympy.Expr) -> fx.Node:
        """A node that computes a size from the graph's inputs."""
        return self.copy(self.mirror.size_node(expression))

    def value(self, value: Value) -> fx.Node:
        """The node that holds a value, made where it is first needed if nothing has made it yet."""
        if value in self.outputs:
            return self.outputs[value]
        node = self.copy(value.node)
        if isinstance(value.node.meta.get("val"), list | tuple):
            projection = self.graph.call_function(operator.getitem, (node, value.index))
            projection.meta["val"] = self.mirror.fake(value)
            node = projection
        self.outputs[value] = node
        return node

    def copy(self, node: fx.Node) -> fx.Node:
        """Copy a node that PyTorch runs, its constants and its shape arithmetic first."""
        done = self.nodes.get(node)
        if done is not None:
            return done
        stack = [node]
        while stack:
            current = stack[-1]
            missing = [operand for operand in current.all_input_nodes if not self._ready(operand)]
            if missing:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            if current not in self.nodes:
                self._copy(current)
        return self.nodes[node]

    def _ready(self, operand: fx.Node) -> bool:
        if operand in self.nodes or self.mirror.op(operand) == "getitem":
            source = self.mirror.value(operand)
            return operand in self.nodes or source in self.outputs or source.node in self.nodes
        return not self.mirror.is_size(operand) and self.mirror.value(operand) in self.outputs

    def _copy(self, node: fx.Node) -> None:
        if node.op == "get_attr" and str(node.target) in self.submodules:
            copied = self.graph.get_attr(self._submodule(str(node.target)))
            copied.meta.update(node.meta)
        elif node.op == "get_attr":
            copied = self.graph.get_attr(self._buffer(str(node.target)))
            copied.meta.update(node.meta, constant=str(node.target))
        else:
            copied = self.graph.node_copy(node, self._operand)
        self.nodes[node] = copied

    def _buffer(self, target: str) -> str:
        """The buffer that holds a constant; ``a.b`` and ``a_b`` are two."""
        name = self.buffers.get(target)
        if name is None:
            wanted = name = "constant_" + target.replace(".", "_")
            number = 1
            while hasattr(self.root, name):
                number += 1
                name = f"{wanted}_{number}"
            self.buffers[target] = name
            self.root.register_buffer(name, self.mirror.constants[target].detach(), persistent=True)
        return name

    def _submodule(self, target: str) -> str:
        """Where the graph of a higher-order op is held; PyTorch runs it."""
        name = "graph_" + target.replace(".", "_")
        if not hasattr(self.root, name):
            self.root.add_module(name, copy.deepcopy(self.submodules[target]))
        return name

    def _operand(self, operand: fx.Node) -> fx.Node:
        if operand in self.nodes:
            return self.nodes[operand]
        return self.value(self.mirror.value(operand))

    def result(self, node: fx.Node) -> fx.Node:
        """A node whose value the caller gets and may write to; constants are returned as copies."""
        if node.op != "get_attr":
            return node
        copied = self.graph.call_function(torch.ops.aten.clone.default, (node,))
        copied.meta.update(node.meta)
        copied.meta.pop("constant", None)
        return copied

    def own_buffers(self) -> None:
        """Copy the constants that are tensors of the model."""
        names = list(self.buffers.values())
        for name, tensor in zip(names, self.memory.copies([self.root.get_buffer(n) for n in names]), strict=True):
            self.root.register_buffer(name, tensor, persistent=True)

    def finish(self) -> fx.GraphModule:
        results = []
        for output in self.mirror.graph.output_node().args[0]:  # type: ignore[union-attr]
            if not isinstance(output, fx.Node):
                results.append(output)
            elif self.mirror.is_size(output):
                results.append(self.copy(output))
            else:
                results.append(self.result(self.value(self.mirror.value(output))))
        self.own_buffers()
        self.graph.output(tuple(results))
        make_dtypes_explicit(self.graph, self.mirror)
        self.graph.lint()
        module = fx.GraphModule(self.root, self.graph, class_name="CompiledGraph")
        module.requires_grad_(False)
        return module


__all__ = ["assemble"]
