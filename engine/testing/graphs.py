"""Graphs and partitions as text, with the rule beside each node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from engine.graph.mirror import Mirror
from engine.report import Report
from engine.testing.text import plain_symbols, portable


def graph_text(mirror: Mirror) -> str:
    """A lowered graph, a line for each node: name, op, arguments, dtype and shape, and the rules that made it."""
    return plain_symbols("\n".join(_line(mirror, node) for node in mirror.graph.nodes))


def _line(mirror: Mirror, node: fx.Node) -> str:
    if node.op == "output":
        return f"return {node.args[0]}"
    if node.op == "placeholder":
        what = "input"
    elif node.op == "get_attr":
        what = f"constant {node.target}"
    else:
        arguments = [str(a) for a in node.args] + [f"{k}={v}" for k, v in node.kwargs.items() if v is not None]
        what = f"{mirror.op(node)}({', '.join(arguments)})"
    rules = ", ".join(step.rule_id for step in node.meta.get("rules", ()))
    return f"{node.name} = {what} : {_type(node)}" + (f"  # {rules}" if rules else "")


def _type(node: fx.Node) -> str:
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        return ", ".join(map(_tensor, value))
    return _tensor(value)


def _tensor(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(map(str, value.shape))}]"
    return str(value)


def partition_text(report: Report) -> str:
    """The segments in order with their nodes: those in engines with their rule, those in PyTorch with the reason."""
    lines = [f"coverage {report.coverage:.3f} of {report.nodes}"]
    listed = report.query()
    for segment in report.segments:
        lines.append(f"{segment.name}: ({', '.join(segment.inputs)}) -> ({', '.join(segment.outputs)})")
        for decision in listed:
            if decision.segment == segment.name:
                rule = f"  # {decision.rule}" if decision.rule else ""
                lines.append(f"  {decision.node} {decision.op}{rule}")
    lines += fallback_lines(report)
    return plain_symbols("\n".join(lines))


def fallback_lines(report: Report) -> Iterator[str]:
    """What stays in PyTorch and what TensorRT refused, each with its reason and the file of the model."""
    for kind, fallbacks in (("in PyTorch", report.fallbacks), ("refused", report.refusals)):
        for fallback in fallbacks:
            source = f" [{portable(fallback.source)}]" if fallback.source else ""
            reason = portable(fallback.reason).replace("\n", "\n    ")
            yield f"{kind}: {fallback.node} {fallback.op}{source}: {reason}"


__all__ = ["fallback_lines", "graph_text", "partition_text"]
