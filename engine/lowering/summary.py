"""What was decided about a model, written to its report."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

from torch import fx

from engine.capture import Captured
from engine.errors import RefusalWarning, user_frame
from engine.evaluator.plan import LayerCall
from engine.graph.mirror import Mirror
from engine.graph.provenance import model_line, module_path, op_name
from engine.lowering.explanation import Explanation
from engine.lowering.lowered_graph import LoweredGraph
from engine.lowering.subgraphs import Subgraphs
from engine.partitioner import Color, Partition
from engine.partitioner.precision import precision
from engine.partitioner.quantities import products, weights
from engine.partitioner.tiling import coverage
from engine.report import Fallback, Report, SegmentReport
from engine.report.decisions import Decisions, Placement
from engine.settings import CompilationSettings

# Names that a note spells out.
_MOST_NAMES = 8
# Reasons that a warning quotes.
_MOST_REFUSALS = 5


def summarize(
    report: Report, graph: LoweredGraph, subgraphs: Subgraphs, partition: Partition, settings: CompilationSettings
) -> None:
    """Write coverage, segments, fallbacks, rules and decisions to a report, in place of what was there before."""
    mirror = graph.mirror
    outside = partition.reasons
    report.nodes, report.coverage = coverage(mirror, outside)
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
    report.weights = weights(mirror, [tuple(segment.every_tile()) for segment in partition.engines])
    report.products = products(mirror, tiles)


def _placements(subgraphs: Subgraphs, partition: Partition) -> dict[fx.Node, Placement]:
    """Where each node runs, those of subgraphs included."""
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


def kept_notes(captured: Captured, mirror: Mirror, partition: Partition) -> list[str]:
    """What a model keeps from call to call and what of its inputs it writes to, and what that costs."""
    notes: list[str] = []
    layers = {
        tile.node: {call.layer.name for call in tile.plan.calls if isinstance(call, LayerCall)}
        for segment in partition.engines
        for tile in segment.tiles
    }
    outputs: Any = mirror.graph.output_node().args[0]
    values = outputs[len(outputs) - len(captured.written) :]
    there = {
        name
        for name, value in zip(captured.written, values, strict=True)
        if "trt.kv_cache_update" in layers.get(value, ())
    }
    states = {state.placeholder: state for state in captured.states}
    written = [states[name] for name in captured.written if name in states]
    if written:
        copied = [state for state in written if state.placeholder not in there]
        size = sum(state.tensor.nbytes for state in copied)
        notes.append(
            f"the module keeps {_counted(len(written), 'state')} ({_listed([state.name for state in written])})"
            + _how(len(written), len(copied), f", {_bytes(size)} in all,")
        )
    inputs = {a.name: a.placeholder for a in captured.arguments if a.placeholder in captured.written}
    if inputs:
        copies = sum(placeholder not in there for placeholder in inputs.values())
        notes.append(
            f"the model writes to {_counted(len(inputs), 'input')} ({_listed(list(inputs))})"
            + _how(len(inputs), copies, "")
        )
    # The buffer of that name is written in training mode alone; its op may be rewritten by now.
    if any(state.name.rpartition(".")[2] == "running_mean" for state in written):
        notes.append(
            "batch normalisation is in training mode: it uses the statistics of each batch, and keeps new ones; call "
            "model.eval() before compiling for inference"
        )
    return notes


def _how(count: int, copied: int, size: str) -> str:
    there = f"; {count - copied} of them where they lie, new rows alone" if copied < count else ""
    return there + (f"; new values{size} are copied there when the engines have run" if copied else "")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}s" if count > 1 else f"one {what}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + (", .." if len(names) > _MOST_NAMES else "")


def _bytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 // 10 else f"{size} bytes"


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
    """Warn that less is in engines than the rules promised, because TensorRT rejected it.

    Args:
        planned: the coverage before TensorRT was asked.
    """
    refused = dict.fromkeys(refusal.reason for refusal in report.refusals)
    lines = [f"{report.model}: {report.coverage:.1%} of the nodes are in engines, {planned:.1%} were planned"]
    lines += list(refused)[:_MOST_REFUSALS]
    if len(refused) > _MOST_REFUSALS:
        lines.append(f"... and {len(refused) - _MOST_REFUSALS} more in report.refusals")
    warnings.warn("\n  ".join(lines), RefusalWarning, stacklevel=user_frame())


__all__ = ["kept_notes", "not_covered", "summarize", "warn_of_refusals"]
