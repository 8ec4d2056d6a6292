"""Colours: where each node runs, by rule coverage; and the graph of what runs as one.

A node that a tile covers is coloured TENSORRT, a node that computes and has no tile PYTORCH.  Inputs, constants and
size arithmetic have no colour: they are wherever they are read.

In the *quotient graph* each tile is one vertex, and so is each node without a tile.  networkx orders it, and so proves
that it has no cycle.  The *level* of a vertex counts the changes of colour on the longest path to it: even levels run
in PyTorch, odd ones in TensorRT.  Levels never decrease along an edge, so no path leaves a level and comes back: each
level is convex, and there are as few as possible.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum

import networkx
from torch import fx

from engine.distributed.collectives import is_collective
from engine.graph.mirror import Mirror, Value
from engine.partitioner.tile import Tile


class Color(StrEnum):
    """Where a node runs."""

    TENSORRT = "tensorrt"
    PYTORCH = "torch"


class Quotient:
    """The graph of tiles and of nodes without one.

    Attributes:
        graph: a ``networkx.DiGraph``; a vertex is the root of a tile, or a node without tile, with its ``color``.
        operands: vertex -> the values of the mirror that it reads, each once, in order.
    """

    def __init__(self, mirror: Mirror, tiles: Mapping[fx.Node, Tile], uncovered: Iterable[fx.Node]) -> None:
        self.graph = networkx.DiGraph()
        self.operands: dict[fx.Node, tuple[Value, ...]] = {}
        left = set(uncovered)
        vertices = [node for node in mirror.graph.nodes if node in tiles or node in left]
        for node in vertices:
            self.graph.add_node(node, color=Color.TENSORRT if node in tiles else Color.PYTORCH)
            read = tiles[node].operands() if node in tiles else _operands(mirror, node)
            self.operands[node] = tuple(dict.fromkeys(read))
        self.graph.add_edges_from(
            (value.node, node) for node in vertices for value in self.operands[node] if value.node in self.graph
        )
        # Collectives keep the order that they have in the model, whatever else runs where.
        self.graph.add_edges_from(itertools.pairwise(node for node in vertices if is_collective(node.target)))

    def levels(self) -> dict[int, list[fx.Node]]:
        """Level -> its vertices in graph order, lowest level first.

        Raises:
            networkx.NetworkXUnfeasible: the vertices form a cycle, so that no order runs each of them as one.
        """
        colors = dict(self.graph.nodes(data="color"))
        found: dict[fx.Node, int] = {}
        for vertex in networkx.topological_sort(self.graph):
            least = max(map(found.__getitem__, self.graph.predecessors(vertex)), default=0)
            found[vertex] = least + (least % 2 != (colors[vertex] is Color.TENSORRT))
        members: dict[int, list[fx.Node]] = defaultdict(list)
        for vertex in self.graph:  # in graph order, which is that in which they were added
            members[found[vertex]].append(vertex)
        return {level: members[level] for level in sorted(members)}


def _operands(mirror: Mirror, node: fx.Node) -> Iterator[Value]:
    return (mirror.value(operand) for operand in node.all_input_nodes if not mirror.is_size(operand))


__all__ = ["Color", "Quotient"]
