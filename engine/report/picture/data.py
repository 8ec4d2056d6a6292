"""What the page knows of a report: nodes, edges, segments, modules and answers, each text once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.errors import EngineError

if TYPE_CHECKING:
    import networkx

    from engine.report.report import Report

VERSION = 1
"""Of the data; `model.js` reads it."""

# Answers are texts of a page each; of more nodes in PyTorch than this, those of one op and reason share one.
_MOST_ANSWERS = 400
# What stands at the edge of a graph and computes nothing.
_BOUNDARY = frozenset({"placeholder", "output"})


def picture_data(report: Report) -> dict[str, Any]:
    """The nodes that compute, inputs and outputs in graph order, with all that was decided about them.

    Args:
        report: of ``engine.coverage`` or ``engine.compile`` in this process.

    Raises:
        EngineError: the report was read from a file, which keeps no graph.
    """
    graph = report.graph
    texts = _Texts()
    shown = [name for name, node in graph.nodes(data=True) if node["color"] or node["op"] in _BOUNDARY]
    number = {name: position for position, name in enumerate(shown)}
    answers = _answers(report, graph, shown)
    nodes = []
    for name in shown:
        node = graph.nodes[name]
        fields = ("op", "color", "segment", "rule", "rule_at", "reason", "module", "source", "shape", "dtype", "graphs")
        nodes.append([name, *(texts.number(node[key]) for key in fields), texts.number(answers.get(name, ""))])
    edges = sorted({(number[a], number[b]) for a, b in graph.edges() if a in number and b in number})
    return {
        "version": VERSION,
        "model": report.model,
        "coverage": round(100 * report.coverage, 1),
        "nodes": nodes,
        "edges": [end for edge in edges for end in edge],
        "texts": texts.all,
        "segments": _segments(graph, shown),
        "notes": list(report.notes),
    }


class _Texts:
    """Texts by number; the empty one is 0."""

    def __init__(self) -> None:
        self.all: list[str] = [""]
        self._numbers = {"": 0}

    def number(self, text: str) -> int:
        """The number of a text."""
        if text not in self._numbers:
            self._numbers[text] = len(self.all)
            self.all.append(text)
        return self._numbers[text]


def _segments(graph: networkx.MultiDiGraph, shown: list[str]) -> list[dict[str, Any]]:
    """Segments in the order in which nodes first run in them."""
    found: dict[str, dict[str, Any]] = {}
    for name in shown:
        node = graph.nodes[name]
        if node["color"]:
            key = node["segment"] or f"({node['color']})"
            segment = found.setdefault(key, {"name": key, "color": node["color"], "nodes": 0})
            segment["nodes"] += 1
    return list(found.values())


def _answers(report: Report, graph: networkx.MultiDiGraph, shown: list[str]) -> dict[str, str]:
    """Why each node in PyTorch is there, as far as the report can still be asked."""
    outside = [name for name in shown if graph.nodes[name]["color"] == "torch"]
    said: dict[tuple[str, str], str] = {}
    answers: dict[str, str] = {}
    for name in outside:
        node = graph.nodes[name]
        key = (node["op"], node["reason"]) if len(outside) > _MOST_ANSWERS else (name, "")
        if key not in said:
            try:
                said[key] = str(report.why(name)) if len(said) < _MOST_ANSWERS else ""
            except EngineError:  # a report of a compiled model answers for a while only
                said[key] = ""
        answers[name] = said[key]
    return answers


__all__ = ["VERSION", "picture_data"]
