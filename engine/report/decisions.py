"""What was decided about each node of a graph, as a list and as a networkx graph that can be written to a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import networkx
import torch
from torch import fx

from engine.graph.mirror import Mirror
from engine.graph.provenance import model_line, module_path, op_name
from engine.report.why import Costly, Gain, Why


class Placement(NamedTuple):
    """Where a node runs, and by what.

    Attributes:
        color: ``"tensorrt"`` or ``"torch"``.
        segment: name of the segment that it runs in; empty where nothing reads it.
        rule: id of the ``convert`` rule whose tile covers it; empty in PyTorch.
        rule_at: ``file:line`` of that rule.
        reason: why it stays in PyTorch; empty in an engine.
    """

    color: str
    segment: str = ""
    rule: str = ""
    rule_at: str = ""
    reason: str = ""


class Decision(NamedTuple):
    """A node that computes: what it is, where it runs and why, where it comes from.

    Attributes:
        color, segment, rule, rule_at, reason: see :class:`Placement`.
        module: path of the module of the user's model.
        source: ``file:line`` of the user's model.
    """

    node: str
    op: str
    color: str
    segment: str
    rule: str
    rule_at: str
    reason: str
    module: str
    source: str


class Explained(Protocol):
    """What a report can be asked about the graph."""

    def why(self, name: str) -> Why:
        """Why a node is where it is."""

    def fallbacks(self) -> list[Costly]:
        """What stays in PyTorch, most costly first."""

    def gains(self) -> list[Gain]:
        """What changes would win."""


class Decisions:
    """The placements of the nodes of a graph, and of the graphs inside its ops.

    Nothing changes them, so copies share them.  Pickled they are what was decided, without the graph to ask.

    Attributes:
        mirror: the lowered graph.
        explanation: answers questions about it, where it can still be asked.
    """

    explanation: Explained | None

    def __init__(
        self, mirror: Mirror, placements: Mapping[fx.Node, Placement], explanation: Explained | None = None
    ) -> None:
        self.mirror = mirror
        self.explanation = explanation
        self._placements = placements

    def listed(self) -> list[Decision]:
        """Every node that computes, in graph order; nodes of the graphs inside an op are not listed."""
        return [
            Decision(
                node.name,
                op_name(node, self.mirror.op(node)),
                *self._placements[node],
                module_path(node),
                model_line(node),
            )
            for node in self.mirror.graph.nodes
            if node in self._placements
        ]

    def graph(self) -> networkx.MultiDiGraph:
        """The graph with what was decided; see :func:`decided_graph`."""
        return decided_graph(self.mirror, self._placements)

    def inner_graphs(self) -> dict[str, networkx.MultiDiGraph]:
        """The graphs inside ops of the model, by name, those around others first."""
        found: dict[str, networkx.MultiDiGraph] = {}
        pending = [self.mirror]
        while pending:
            for name, mirror in pending.pop(0).inner.items():
                found[name] = decided_graph(mirror, self._placements)
                pending.append(mirror)
        return found

    def __deepcopy__(self, memo: object) -> Decisions:
        return self

    def __reduce__(self) -> tuple[type[Decisions], tuple[Any, ...]]:
        return KeptDecisions, (self.listed(), self.graph(), self.inner_graphs())


class KeptDecisions(Decisions):
    """What was decided, in a process that does not have the graph."""

    def __init__(
        self,
        listed: list[Decision],
        graph: networkx.MultiDiGraph,
        inner_graphs: dict[str, networkx.MultiDiGraph],
    ) -> None:
        self.explanation = None
        self._kept = listed, graph, inner_graphs

    def listed(self) -> list[Decision]:
        """Every node that computes, in graph order."""
        return list(self._kept[0])

    def graph(self) -> networkx.MultiDiGraph:
        """The graph with what was decided."""
        return self._kept[1].copy()

    def inner_graphs(self) -> dict[str, networkx.MultiDiGraph]:
        """The graphs inside ops of the model, by name."""
        return {name: graph.copy() for name, graph in self._kept[2].items()}


def decided_graph(mirror: Mirror, placements: Mapping[fx.Node, Placement]) -> networkx.MultiDiGraph:
    """A lowered graph, one vertex for each FX node by name and one edge for each use.

    Node attributes are strings, so that every writer of networkx takes them: ``op``, ``dtype``, ``shape``, ``module``
    (path in the user's model), ``source`` (``file:line`` of the model), ``origin`` (the module, or else the line),
    ``graphs`` (names of the graphs that the op runs), and what was decided: ``color``, ``segment``, ``rule``,
    ``rule_at``, ``reason``, empty where they do not apply.  An edge's key says which argument it is, ``"2"`` or
    ``"0.1"`` for an element of a list; its ``output`` is the index of the output that is used.
    """
    graph = networkx.MultiDiGraph()
    undecided = Placement("")
    for node, data in mirror.nx.nodes(data=True):
        attributes = {
            "op": data["op"],
            "dtype": _text(data["dtype"]),
            "shape": _text(data["shape"]),
            "origin": data["origin"],
            "module": module_path(node),
            "source": model_line(node),
            "graphs": ", ".join(data["graphs"]),
        }
        graph.add_node(node.name, **attributes, **placements.get(node, undecided)._asdict())
    for before, after, path, data in mirror.nx.edges(keys=True, data=True):
        graph.add_edge(before.name, after.name, key=".".join(map(str, path)), output=data["output"])
    return graph


def _text(value: Any) -> str:
    """A dtype, a shape, or one of them for each output."""
    if value is None:
        return ""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, tuple):
        if any(isinstance(item, tuple | torch.dtype) for item in value):
            return f"({', '.join(map(_text, value))})"
        return f"[{', '.join(map(str, value))}]"
    return str(value)


__all__ = ["Decision", "Decisions", "Placement", "decided_graph"]
