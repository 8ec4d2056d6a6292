"""Which results of ops may be their operands, or look at the memory of these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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


def written_operands(node: fx.Node) -> Iterator[fx.Node]:
    """The operands that a node writes to, by the schema of its op."""
    for index, argument in enumerate(node.target._schema.arguments if isinstance(node.target, OpOverload) else ()):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
            for operand in value if isinstance(value, list | tuple) else (value,):
                if isinstance(operand, fx.Node):
                    yield operand


__all__ = ["aliases_of", "may_alias", "written_operands"]
