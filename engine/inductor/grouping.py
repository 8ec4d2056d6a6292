"""The ops of each PyTorch segment, taken out of an assembled graph into modules of their own, and put back."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import sympy
import torch
from torch import fx, nn
from torch._ops import OpOverload

from engine.distributed.collectives import is_collective
from engine.graph.marks import TORCH_SEGMENT
from engine.inductor.segment import TorchSegment
from engine.inductor.sizes import Sizes, TensorInput
from engine.sizes import normal


def torch_segments(module: nn.Module) -> Iterator[TorchSegment]:
    """The segments of a module that are modules of their own."""
    return (found for found in module.modules() if isinstance(found, TorchSegment))


def grouped(module: fx.GraphModule, ranges: Mapping[sympy.Symbol, Any]) -> fx.GraphModule:
    """A graph whose PyTorch segments are modules of their own, which are not compiled yet.

    The ops of one segment are one module, unless something that cannot be inside (a number that is read from a tensor)
    depends on some of them and is needed by others.  What only looks at tensors in another shape stays where it is.
    Sizes are computed inside from the tensors of the segment.

    Args:
        module: from :func:`engine.lowering.assembly.assemble`; ops carry the name of their segment.
        ranges: symbol -> (min, opt, max) of the sizes of the model's inputs.
    """
    groups = _groups(module)
    if not groups:
        return module
    return _Regrouped(module, groups, ranges).made()


def inlined(module: fx.GraphModule) -> fx.GraphModule:
    """The graph with the ops of its segments in it."""
    if not any(True for _ in torch_segments(module)):
        return module
    graph = fx.Graph()
    root = nn.Module()
    done: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        held = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(held, TorchSegment):
            inside = held.graph_module
            for name, child in inside.named_children():
                root.add_module(name, child)
            given = dict(zip(inside.graph.find_nodes(op="placeholder"), map(done.__getitem__, node.args), strict=True))
            done[node] = graph.graph_copy(inside.graph, given)
        elif node.target is operator.getitem and isinstance(done[node.args[0]], tuple | list):
            done[node] = done[node.args[0]][node.args[1]]
        else:
            if node.op == "get_attr":
                _hold(root, str(node.target), operator.attrgetter(str(node.target))(module))
            elif held is not None:
                root.add_module(str(node.target), held)
            done[node] = graph.node_copy(node, done.__getitem__)
    made = fx.GraphModule(root, graph, class_name=type(module).__name__)
    made._non_persistent_buffers_set.update(module._non_persistent_buffers_set)
    return made


def _groups(module: fx.GraphModule) -> list[list[fx.Node]]:
    """The ops that become modules, in order."""
    groups: list[list[fx.Node]] = []
    current: list[fx.Node] = []
    inside: set[fx.Node] = set()
    behind: set[fx.Node] = set()
    name = None
    for node in module.graph.nodes:
        mine = _belongs(node, inside)
        if mine:
            wanted = node.meta.get(TORCH_SEGMENT, name)
            if wanted != name or any(operand in behind for operand in _tensors_of(node)):
                current, name = [], wanted
                groups.append(current)
                inside, behind = set(), set()
            current.append(node)
            inside.add(node)
        elif any(operand in inside or operand in behind for operand in node.all_input_nodes):
            behind.add(node)
    return [group for group in groups if any(map(_computes, group))]


def _belongs(node: fx.Node, inside: set[fx.Node]) -> bool:
    if node.target is operator.getitem:
        return node.args[0] in inside and _gives_tensors(node)
    return (
        TORCH_SEGMENT in node.meta
        and node.op == "call_function"
        and not is_collective(node.target)  # their order is the model's, on every rank
        and _gives_tensors(node)
        and all(map(_can_be_given, _tensors_of(node)))
    )


def _gives_tensors(node: fx.Node) -> bool:
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    return bool(values) and all(isinstance(each, torch.Tensor) for each in values)


def _can_be_given(node: fx.Node) -> bool:
    """Whether a segment can take the value of a node: tensors, sizes, and graphs; no other numbers."""
    value = node.meta.get("val")
    return node.op == "get_attr" or isinstance(value, torch.Tensor | list | tuple | int | torch.SymInt)


def _computes(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return False
    return not (isinstance(node.target, OpOverload) and node.target.is_view)


def _is_size(node: fx.Node) -> bool:
    return not isinstance(node.meta.get("val"), torch.Tensor | list | tuple) and node.op == "call_function"


def _is_computed_size(node: fx.Node) -> bool:
    """Whether a size follows from the shapes of tensors, and from no data."""
    return _is_size(node) and (not isinstance(node.target, OpOverload) or node.target is torch.ops.aten.sym_size.int)


def _tensors_of(node: fx.Node) -> Iterator[fx.Node]:
    """What a node needs once its sizes are computed where it is: tensors, and numbers that are no sizes."""
    for operand in node.all_input_nodes:
        if _is_computed_size(operand):
            yield from _tensors_of(operand)
        else:
            yield operand


class _Regrouped:
    def __init__(self, module: fx.GraphModule, groups: list[list[fx.Node]], ranges: Mapping[sympy.Symbol, Any]) -> None:
        self.module = module
        self.ranges = ranges
        self.group_of = {node: index for index, group in enumerate(groups) for node in group}
        self.groups = groups
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.done: dict[fx.Node, fx.Node] = {}
        self.names: set[str] = set()

    def made(self) -> fx.GraphModule:
        waiting: list[fx.Node] = []
        left = [len(group) for group in self.groups]
        for node in self.module.graph.nodes:
            index = self.group_of.get(node)
            if index is not None:
                left[index] -= 1
                if not left[index]:
                    self._call(self.groups[index])
                    waiting = [each for each in waiting if not self._copy(each)]
            elif waiting or not self._copy(node):
                waiting = [each for each in (*waiting, node) if not self._copy(each)]
        assert not waiting
        for node in reversed(self.graph.nodes):
            if _is_computed_size(node) and not node.users:
                self.graph.erase_node(node)
        self.graph.lint()
        made = fx.GraphModule(self.root, self.graph, class_name=type(self.module).__name__)
        made.requires_grad_(False)
        made._non_persistent_buffers_set.update(self.module._non_persistent_buffers_set)
        return made

    def _copy(self, node: fx.Node) -> bool:
        """Copy a node of the graph, unless it still waits for a segment."""
        if any(operand not in self.done for operand in node.all_input_nodes):
            return False
        if node.op in ("get_attr", "call_module"):
            _hold(self.root, str(node.target), operator.attrgetter(str(node.target))(self.module))
        self.done[node] = self.graph.node_copy(node, self.done.__getitem__)
        return True

    def _call(self, group: list[fx.Node]) -> None:
        inside = _Inside(self.module, set(group))
        for node in group:
            inside.copy(node)
        outputs = [node for node in group if any(user not in inside.members for user in node.users)]
        outputs = [node for node in outputs if isinstance(node.meta["val"], torch.Tensor)]
        inside.graph.output(tuple(inside.done[node] for node in outputs))
        name = self._name(next(str(node.meta[TORCH_SEGMENT]) for node in group if TORCH_SEGMENT in node.meta))
        sizes = Sizes.of([self._input(node) for node in inside.inputs], self.ranges)
        ops = fx.GraphModule(inside.root, inside.graph, class_name="TorchOps")
        self.root.add_module(name, TorchSegment(name, ops, sizes))
        call = self.graph.call_module(name, tuple(self.done[node] for node in inside.inputs))
        call.meta["val"] = tuple(node.meta["val"] for node in outputs)
        for index, node in enumerate(outputs):
            self.done[node] = self.graph.call_function(operator.getitem, (call, index))
            self.done[node].meta.update(node.meta)

    def _name(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.names:
            number += 1
            name = f"{wanted}_{number}"
        self.names.add(name)
        return name

    def _input(self, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(self.module)
        if not isinstance(value, torch.Tensor):
            return normal(value)
        source: Any = node.args[0] if node.target is operator.getitem else node
        # Engines write their outputs in order, whatever PyTorch's op would have done.
        return TensorInput.of(value, contiguous=source.op == "call_module")


class _Inside:
    """The graph of one segment."""

    def __init__(self, module: fx.GraphModule, members: set[fx.Node]) -> None:
        self.module = module
        self.members = members
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.done: dict[fx.Node, fx.Node] = {}
        self.inputs: list[fx.Node] = []

    def copy(self, node: fx.Node) -> None:
        for operand in node.all_input_nodes:
            if operand not in self.done:
                self._outside(operand)
        self.done[node] = self.graph.node_copy(node, self.done.__getitem__)

    def _outside(self, node: fx.Node) -> None:
        held = operator.attrgetter(str(node.target))(self.module) if node.op == "get_attr" else None
        if isinstance(held, nn.Module):
            _hold(self.root, str(node.target), held)
            self.done[node] = self.graph.node_copy(node)
        elif _is_computed_size(node):
            self.copy(node)
        else:
            self.inputs.append(node)
            # Inputs of a graph come before all else.
            last = self.done[self.inputs[-2]] if len(self.inputs) > 1 else None
            with self.graph.inserting_before() if last is None else self.graph.inserting_after(last):
                self.done[node] = self.graph.placeholder(node.name)
            self.done[node].meta.update(node.meta)


def _hold(root: nn.Module, name: str, value: Any) -> None:
    if hasattr(root, name):
        return
    if isinstance(value, nn.Module):
        root.add_module(name, value)
    else:
        root.register_buffer(name, value, persistent=True)


__all__ = ["grouped", "inlined", "torch_segments"]
