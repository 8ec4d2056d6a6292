"""Assembly: the partitioned graph as an ``fx.GraphModule`` whose engines are ``TorchTensorRTModule``."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import sympy
import torch
from torch import fx, nn

from engine.capture.state import State
from engine.graph.aliases import aliases_of, memory_of
from engine.graph.marks import TORCH_SEGMENT, WRITE
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
    states: Sequence[State] = (),
    written: Sequence[str] = (),
    captured_memory: Sequence[frozenset[fx.Node]] = (),
) -> fx.GraphModule:
    """Build the graph module that runs the segments in order.

    Args:
        modules: segment name -> module that takes the segment's inputs, then its scalars, and returns its outputs.
        scalars: segment name -> sizes that its network takes as extra inputs.
        submodules: target of a ``get_attr`` node -> graph that a higher-order op runs.
        memory: of the model, which the module shares with it in nothing.
        states: of the model, which become buffers of the module, :func:`state_buffer`.
        written: placeholders whose new values are the last outputs; the module copies these to them when all else has
            run, so that a call that fails leaves them as they were.
        captured_memory: of each output, the nodes of the captured graph in whose memory it may lie. Where rules left
            out the op that made a tensor of its own, the output becomes a copy.

    Returns:
        A module that takes the user's tensors in order and returns the flat tuple of outputs.
    """
    assembler = _Assembler(mirror, submodules or {}, memory or ModelMemory(()))
    held = {state.placeholder: state for state in states}
    for node in mirror.graph.nodes:
        if node.op == "placeholder" and node.name not in held:
            assembler.copy(node)
    for node in mirror.graph.nodes:
        if node.op == "placeholder" and node.name in held:
            assembler.state(node, held[node.name])
    for segment in partition.segments:
        if segment.backend == "tensorrt":
            assembler.engine(segment, modules[segment.name], scalars.get(segment.name, ()))
        else:
            for node in segment.nodes:
                assembler.copy(node).meta[TORCH_SEGMENT] = segment.name
    return assembler.finish(written, captured_memory)


def state_buffer(name: str) -> str:
    """The buffer of an assembled module that is a state of the model, by its name there."""
    # No two names give the same: a single underscore comes from an underscore alone.
    return "state_" + name.replace("_", "__").replace(".", "_")


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
        self.hidden: set[str] = set()

    def state(self, node: fx.Node, state: State) -> None:
        """Make a buffer of an input that is kept from call to call."""
        name = state_buffer(state.name)
        # A tensor of its own, to be written to in any mode.
        with torch.inference_mode(False), torch.no_grad():
            own = state.tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
        self.root.register_buffer(name, own)
        if not state.persistent:
            self.hidden.add(name)
        self.nodes[node] = self.graph.get_attr(name)
        self.nodes[node].meta.update(node.meta)

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
        return self.copied(node) if node.op == "get_attr" else node

    def copied(self, node: fx.Node) -> fx.Node:
        """A copy of a node's value."""
        copied = self.graph.call_function(torch.ops.aten.clone.default, (node,))
        copied.meta.update(node.meta)
        for mark in ("constant", TORCH_SEGMENT):
            copied.meta.pop(mark, None)
        return copied

    def own_buffers(self) -> None:
        """Copy the constants that are tensors of the model."""
        names = list(self.buffers.values())
        for name, tensor in zip(names, self.memory.copies([self.root.get_buffer(n) for n in names]), strict=True):
            self.root.register_buffer(name, tensor, persistent=True)

    def write(self, places: Sequence[fx.Node], results: list[Any], values: Sequence[fx.Node]) -> None:
        """Copy new values to the places that are written to, after what still reads their old ones."""
        reading = aliases_of(self.graph.nodes, places)
        # Where an engine writes in place, its output is the place itself.
        made = [value for value in values if isinstance(value, fx.Node)]
        behind = aliases_of(self.graph.nodes, made) - set(made)
        kept: dict[fx.Node, fx.Node] = {}

        def apart(value: Any, places: set[fx.Node]) -> Any:
            if not isinstance(value, fx.Node) or value not in places:
                return value
            if value not in kept:
                kept[value] = self.copied(value)
            return kept[value]

        results[:] = [apart(result, reading | behind) for result in results]
        for place, value in zip(places, [apart(value, reading) for value in values], strict=True):
            self.graph.call_function(WRITE, (place, value)).meta.update(place.meta)

    def lay_apart(self, results: list[Any], captured: Sequence[frozenset[fx.Node]]) -> None:
        """Copy results that lie in the memory of an input, or of another result, where the model's own do not.

        Of ``x.clone()`` or ``x + 0`` nothing is left, and the caller may write to what it gets.
        """
        earlier: list[tuple[frozenset[fx.Node], frozenset[fx.Node]]] = []
        for index, (result, before) in enumerate(zip(results, captured, strict=False)):
            if not isinstance(result, fx.Node) or not isinstance(result.meta.get("val"), torch.Tensor):
                continue
            now = memory_of(result)
            inputs = {node.name for node in before if node.op == "placeholder"}
            if any(node.op == "placeholder" and node.name not in inputs for node in now) or any(
                not now.isdisjoint(others) and not _shared(before, others_before) for others, others_before in earlier
            ):
                results[index] = self.copied(result)
                now = frozenset((results[index],))
            earlier.append((now, before))

    def finish(self, written: Sequence[str] = (), captured_memory: Sequence[frozenset[fx.Node]] = ()) -> fx.GraphModule:
        results: list[Any] = []
        outputs: Any = self.mirror.graph.output_node().args[0]
        values = [self.value(self.mirror.value(output)) for output in outputs[len(outputs) - len(written) :]]
        for output in outputs[: len(outputs) - len(written)]:
            if not isinstance(output, fx.Node):
                results.append(output)
            elif self.mirror.is_size(output):
                results.append(self.copy(output))
            else:
                results.append(self.result(self.value(self.mirror.value(output))))
        self.lay_apart(results, captured_memory)
        if written:
            inputs = {node.name: node for node in self.mirror.placeholders}
            self.write([self.nodes[inputs[name]] for name in written], results, values)
        self.own_buffers()
        self.graph.output(tuple(results))
        make_dtypes_explicit(self.graph, self.mirror)
        self.graph.lint()
        module = fx.GraphModule(self.root, self.graph, class_name="CompiledGraph")
        module.requires_grad_(False)
        # Not kept by fx.GraphModule.
        module._non_persistent_buffers_set.update(self.hidden)
        return module


def _shared(first: frozenset[fx.Node], second: frozenset[fx.Node]) -> bool:
    """Whether two values of the model may lie in one tensor.

    A composite op (``matmul``) may give its operand, as far as is known: two are apart though both read an input.
    """
    common = first & second
    return any(node.op != "placeholder" for node in common) or (len(common) == len(first) == len(second) == 1)


__all__ = ["assemble", "state_buffer"]
