"""Which ops a compilation was given for each of several calls, and in which dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import fx
from torch.utils import _pytree as pytree

from engine.capture.captured import Captured
from engine.pipeline.compilation import Compilation

# By full overload name the dtypes of what the op works on, as the rules language writes them.
Operands = dict[str, set[str]]

SHORT = {
    torch.float64: "f64", torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.int64: "i64",
    torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8", torch.bool: "bool",
    torch.complex64: "c64", torch.complex128: "c128",
}  # fmt: skip


class LookedAt(Compilation):
    """A compilation that notes what each result was computed with in the graph as it was captured.

    Attributes:
        behind: per leaf of the result, the ops behind it.
    """

    behind: Sequence[Operands] = ()

    @classmethod
    def lowered(cls, captured: Captured, *others: Any, **options: Any) -> Self:
        """As the compiler does it, which edits the captured graph."""
        each = [1] * len(_results(captured.graph))
        behind = [operands_of(nodes) for nodes in results_of(captured.graph, each)]
        made = super().lowered(captured, *others, **options)
        made.behind = behind
        return made

    def planned_layers(self, counts: Sequence[int]) -> list[int]:
        """How many layers the tiles of each of several calls ask for, which have so many leaves."""
        tiles = self.graph.tiling.tiles
        return [
            sum(len(tiles[node].plan.calls) for node in nodes if node in tiles)
            for nodes in results_of(self.graph.mirror.graph, counts)
        ]

    def operands(self, counts: Sequence[int]) -> list[Operands]:
        """The ops behind each of several calls, which have so many leaves."""
        found = []
        rest = iter(self.behind)
        for count in counts:
            ops: Operands = {}
            for _ in range(count):
                add(ops, next(rest))
            found.append(ops)
        return found


def add(operands: Operands, more: Operands) -> None:
    """Note more ops and dtypes."""
    for op, dtypes in more.items():
        operands.setdefault(op, set()).update(dtypes)


def operands_of(nodes: Sequence[fx.Node]) -> Operands:
    """The ops of some nodes, and the dtype of what each works on: ``self``, else the first tensor, else the result."""
    found: Operands = {}
    for node in nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            found.setdefault(str(node.target), set()).add(SHORT.get(_dtype(node), ""))
    return found


def _dtype(node: fx.Node) -> torch.dtype | None:
    names = [argument.name for argument in node.target._schema.arguments]
    arguments = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    ordered = [arguments.pop("self", None), *arguments.values(), node]
    for leaf in pytree.tree_leaves(ordered):
        value = leaf.meta.get("val") if isinstance(leaf, fx.Node) else None
        if isinstance(value, tuple | list):
            value = next((item for item in value if isinstance(item, torch.Tensor)), None)
        if isinstance(value, torch.Tensor):
            return value.dtype
    return None


def _results(graph: fx.Graph) -> list[Any]:
    return list(graph.output_node().args[0])


def results_of(graph: fx.Graph, counts: Sequence[int]) -> list[list[fx.Node]]:
    """The nodes that the results of each of several calls depend on, in graph order; they have so many leaves."""
    order = {node: position for position, node in enumerate(graph.nodes)}
    results = _results(graph)
    found = []
    for count in counts:
        mine, results = results[:count], results[count:]
        pending, seen = [item for item in mine if isinstance(item, fx.Node)], set()
        while pending:
            node = pending.pop()
            if node not in seen:
                seen.add(node)
                pending.extend(node.all_input_nodes)
        found.append(sorted(seen, key=order.__getitem__))
    return found
