"""The networkx view of a graph, kept in step with the edits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import networkx
import torch
from torch import fx

from engine.graph import provenance
from engine.graph.subgraph import Subgraph
from engine.graph.value import Value

if TYPE_CHECKING:
    from engine.graph.mirror import Mirror


class GraphView:
    """A ``networkx.MultiDiGraph`` over FX nodes, ``getitem`` nodes folded into output indices.

    Node data: ``op`` (the name rules use), ``dtype``, ``shape`` (tuples of them for several outputs, None for
    nodes without a tensor), ``origin`` (module path, or model line), and ``graphs`` (names of the graphs that the op
    runs; they have views of their own).  There is one edge per use; its key
    is the path of the argument, ``(2,)`` or ``(0, 1)`` for a list element, and its data ``output`` says which
    output is used.  Edits are journalled and the view catches up when it is read.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._graph: networkx.MultiDiGraph | None = None
        self._journal: dict[fx.Node, None] = {}

    def touch(self, node: fx.Node) -> None:
        """Note that a node was made, erased, or got other arguments."""
        if self._graph is not None:
            self._journal[node] = None

    def read(self) -> networkx.MultiDiGraph:
        """The view, up to date."""
        if self._graph is None:
            self._graph = networkx.MultiDiGraph()
            self._journal = dict.fromkeys(self._mirror.graph.nodes)
        if self._journal:
            self._catch_up(self._graph)
        return self._graph

    def _catch_up(self, graph: networkx.MultiDiGraph) -> None:
        alive: list[fx.Node] = []
        for node in self._journal:
            if node._erased:
                if node in graph:
                    graph.remove_node(node)
            elif self._mirror.op(node) != "getitem":
                alive.append(node)
        for node in alive:
            if node in graph:
                graph.remove_edges_from(list(graph.in_edges(node, keys=True)))
            graph.add_node(node, **self._data(node))
        for node in alive:
            for path, value in uses(self._mirror.raw_arguments(node)):
                graph.add_edge(value.node, node, key=path, output=value.index)
        self._journal.clear()

    def _data(self, node: fx.Node) -> dict[str, Any]:
        fake = node.meta.get("val")
        data: dict[str, Any] = {"op": self._mirror.op(node), "dtype": None, "shape": None}
        if isinstance(fake, torch.Tensor):
            data.update(dtype=fake.dtype, shape=self._mirror.shape_of(node))
        elif isinstance(fake, tuple | list):
            values = [Value(node, index) for index in range(len(fake))]
            tensors = [value if isinstance(fake[value.index], torch.Tensor) else None for value in values]
            data["dtype"] = tuple(None if v is None else self._mirror.dtype(v) for v in tensors)
            data["shape"] = tuple(None if v is None else self._mirror.shape(v) for v in tensors)
        data["graphs"] = tuple(item.name for item in self._mirror.arguments(node) if isinstance(item, Subgraph))
        data["origin"] = provenance.module_path(node) or provenance.model_line(node)
        return data


def uses(arguments: Any, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Value]]:
    """Every used value with the path of its argument; size nodes count as values here."""
    if isinstance(arguments, Value):
        yield path, arguments
    elif isinstance(arguments, tuple | list):
        for position, item in enumerate(arguments):
            yield from uses(item, (*path, position))
