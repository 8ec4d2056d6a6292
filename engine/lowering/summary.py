"""What was decided about a model, written to its report."""

from __future__ import annotations

import warnings
from collections import Counter

from torch import fx

from engine.errors import RefusalWarning, user_frame
from engine.graph.provenance import model_line, module_path, op_name
from engine.lowering.explanation import Explanation
from engine.lowering.lowered_graph import LoweredGraph
from engine.lowering.subgraphs import Subgraphs
from engine.partitioner import Color, Partition
from engine.partitioner.precision import precision
from engine.partitioner.tiling import computes
from engine.report import Fallback, Report, SegmentReport
from engine.report.decisions import Decisions, Placement
from engine.settings import CompilationSettings

# Reasons that a warning quotes.
_MOST_REFUSALS = 5


def summarize(
    report: Report, graph: LoweredGraph, subgraphs: Subgraphs, partition: Partition, settings: CompilationSettings
) -> None:
    """Write coverage, segments, fallbacks, rules and decisions to a report, in place of what was there before."""
    mirror = graph.mirror
    computing = [node for node in mirror.graph.nodes if computes(mirror, node)]
    outside = partition.reasons
    report.nodes = len(computing)
    report.coverage = 1.0 - len(outside) / len(computing) if computing else 1.0
    report.fallbacks = [
        Fallback(node.name, op_name(node, mirror.op(node)), reason, model_line(node), module_path(node))
        for node, reason in outside.items()
    ]
    report.segments = [
        SegmentReport(
            segment.name,
            segment.backend,
            len(segment.nodes),
            sum(tile.size for tile in segment.tiles) or len(segment.nodes),
            tuple(value.node.name for value in segment.inputs),
            tuple(value.node.name for value in segment.outputs),
        )
        for segment in partition.segments
    ]
    placements = _placements(subgraphs, partition)
    explanation = Explanation(graph, subgraphs, partition, placements, settings)
    report.decisions = Decisions(mirror, placements, explanation)
    tiles = [tile for segment in partition.engines for tile in segment.every_tile()]
    used = Counter({rule: counter.applications for rule, counter in subgraphs.trace.counters.items()})
    used.update(tile.rule.id for tile in tiles)
    report.rules_used = {rule: count for rule, count in sorted(used.items()) if count}
    report.overridden = tuple(pair for pair in subgraphs.ruleset.overridden if pair[0] in used)
    calls = (call for tile in tiles for call in tile.plan.calls)
    report.precision = precision(calls, graph.context, settings.use_fp32_acc)


def _placements(subgraphs: Subgraphs, partition: Partition) -> dict[fx.Node, Placement]:
    """Where each node runs, those of the graphs inside ops included."""
    found: dict[fx.Node, Placement] = {}
    for graph in subgraphs:
        for node, reason in graph.reasons.items():
            found[node] = Placement(Color.PYTORCH.value, reason=reason)
    # A node inside one tile may have a tile of its own as well, or run in PyTorch for another reader.
    tiles = [(segment, tile) for segment in partition.engines for tile in segment.every_tile()]
    roots = {
        tile.node: Placement(segment.backend, segment.name, tile.rule.id, tile.rule.where) for segment, tile in tiles
    }
    for _, tile in tiles:
        found.update(dict.fromkeys(tile.nodes, roots[tile.node]))
    for segment in partition.segments:
        if segment.backend == Color.PYTORCH:
            for node in segment.nodes:
                found[node] = Placement(segment.backend, segment.name, reason=partition.reasons[node])
    return found | roots


def not_covered(report: Report) -> str:
    """The message where a model may not be covered in part: each node outside, and why."""
    count = len(report.fallbacks)
    nodes = f"{count} of {report.nodes} nodes" if report.nodes > 1 else "the only node"
    lines = [f"require_full_compilation: {nodes} of {report.model} cannot be in an engine"]
    for fallback in report.fallbacks:
        place = " at ".join(filter(None, (fallback.module, fallback.source)))
        where = f", from {place}" if place else ""
        reason = fallback.reason.replace("\n", "\n    ")
        lines.append(f"  {fallback.node}: {fallback.op}{where}\n    {reason}")
    lines.append(
        'write rules for them (rules=["my.rules"]), or drop require_full_compilation to run the rest in PyTorch'
    )
    return "\n".join(lines)


def warn_of_refusals(report: Report, planned: float) -> None:
    """Warn that less is in engines than the rules promised, because TensorRT refused it.

    Args:
        planned: the coverage before TensorRT was asked.
    """
    refused = dict.fromkeys(refusal.reason for refusal in report.refusals)
    lines = [f"{report.model}: {report.coverage:.1%} of the nodes are in engines, {planned:.1%} were planned"]
    lines += list(refused)[:_MOST_REFUSALS]
    if len(refused) > _MOST_REFUSALS:
        lines.append(f"... and {len(refused) - _MOST_REFUSALS} more in report.refusals")
    warnings.warn("\n  ".join(lines), RefusalWarning, stacklevel=user_frame())


__all__ = ["not_covered", "summarize", "warn_of_refusals"]
