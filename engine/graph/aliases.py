"""Which results of ops may be their operands, or look at the memory of these."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator

import torch
from torch import fx
from torch._C import _dispatch_has_kernel_for_dispatch_key
from torch._ops import OpOverload


def may_alias(node: fx.Node) -> bool:
    """Whether what a node gives may lie in the memory of one of its operands.

    Composite ops (``reshape``, ``to``, ``contiguous``) do not say: they give their operand where nothing is to do.
    """
    op = node.target
    if not isinstance(op, OpOverload):
        return True
    if any(result.alias_info is not None for result in op._schema.returns):
        return True
    return bool(_dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd"))


def aliases_of(nodes: Iterable[fx.Node], sources: Iterable[fx.Node]) -> set[fx.Node]:
    """The sources, and the nodes that may lie in their memory; ``nodes`` are those of their graph, in order."""
    found = set(sources)
    for node in nodes:
        if node.op == "call_function" and not found.isdisjoint(node.all_input_nodes) and may_alias(node):
            found.add(node)
    return found


def memory_of(node: fx.Node) -> frozenset[fx.Node]:
    """The nodes in whose memory a value may lie; the node itself, where its op makes a tensor of its own."""
    found, seen, stack = set(), {node}, [node]
    while stack:
        current = stack.pop()
        # Outputs of an engine lie apart from each other and from its inputs.
        of_engine = current.target is operator.getitem and current.all_input_nodes[0].op == "call_module"
        operands: list[fx.Node] = []
        if current.op == "call_function" and not of_engine and may_alias(current):
            operands = [operand for operand in current.all_input_nodes if _holds_tensors(operand)]
        if not operands:
            found.add(current)
        stack.extend(operand for operand in operands if operand not in seen)
        seen.update(operands)
    return frozenset(found)


def _holds_tensors(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return value is None or isinstance(value, torch.Tensor | list | tuple)


def written_operands(node: fx.Node) -> Iterator[fx.Node]:
    """The operands that a node writes to, by the schema of its op."""
    for index, argument in enumerate(node.target._schema.arguments if isinstance(node.target, OpOverload) else ()):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
            for operand in value if isinstance(value, list | tuple) else (value,):
                if isinstance(operand, fx.Node):
                    yield operand


__all__ = ["aliases_of", "may_alias", "memory_of", "written_operands"]
