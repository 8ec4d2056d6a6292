"""Collectives: the ops by which ranks exchange tensors, as ``torch.distributed._functional_collectives`` writes them.

They run in PyTorch, between engines, in the order of the model on every rank: a rank that calls two collectives of one
group in another order than the others waits for ever, or takes the wrong tensor.  They are no constants either,
whatever their operands are: what they give is known when all ranks call them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import fx
from torch._ops import OpOverload

NAMESPACES = frozenset({"_c10d_functional", "_c10d_functional_autograd", "_dtensor", "symm_mem"})
"""The namespaces of PyTorch's ops that exchange tensors, and of those that wait for them."""
REASON = "it exchanges tensors with other ranks, by PyTorch's process group"
_GROUPS = ("group_name", "group")


def is_collective(op: Any) -> bool:
    """Whether an op exchanges tensors with other ranks, or waits until that is done."""
    return isinstance(op, OpOverload) and op.namespace in NAMESPACES


def collectives(graph: fx.Graph) -> Iterator[fx.Node]:
    """The calls of a graph that exchange tensors, in order; not those that wait for them."""
    return (node for node in graph.nodes if is_collective(node.target) and group_of(node) is not None)


def group_of(node: fx.Node) -> str | None:
    """The name of the process group of a call; None for a call without one."""
    assert isinstance(node.target, OpOverload)
    for position, argument in enumerate(node.target._schema.arguments):
        if argument.name in _GROUPS:
            given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            return None if given is None else str(getattr(given, "group_name", given))
    return None


def groups_of(graphs: Iterable[fx.Graph]) -> list[str]:
    """The names of the process groups that graphs use, each once, in the order of their first use."""
    return list(dict.fromkeys(group for graph in graphs for node in collectives(graph) if (group := group_of(node))))


__all__ = ["NAMESPACES", "REASON", "collectives", "group_of", "groups_of", "is_collective"]
