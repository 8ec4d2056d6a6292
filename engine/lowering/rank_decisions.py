"""What has to be the same on every rank of a module that several ranks run together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx
from torch.utils import _pytree as pytree

from engine.capture.inputs import Range
from engine.distributed.agreement import Fact
from engine.distributed.collectives import collectives, group_of, is_collective
from engine.graph.provenance import describe, model_line
from engine.report import Report
from engine.sizes import normal

# What a setting of one rank alone may be: folders, and how long to wait.
_OWN = frozenset({"engine_cache_dir", "engine_cache_size", "runtime_cache_path", "distributed_timeout", "debug"})


@dataclass(frozen=True)
class Traced:
    """A captured graph, before anything is rewritten.

    Attributes:
        calls: its ops and the model's lines, the same on every rank that has the same model.
        digest: of all that the graph says, shapes and numbers of one rank among them.
    """

    calls: tuple[Fact, ...]
    digest: str


def traced(graph: fx.Graph) -> Traced:
    """What a graph is, to be compared with that of other ranks.

    Ranks may have other numbers in it: each takes other rows of an embedding that is sharded by rows.
    """
    calls, texts = [], []
    for node in graph.nodes:
        if node.op == "call_function":
            line = model_line(node)
            calls.append(Fact(node.name, str(node.target) + (f", from {line}" if line else "")))
        shapes = [_tensor(value, {}) for value in pytree.tree_leaves(node.meta.get("val"))]
        group = group_of(node) if is_collective(node.target) else None
        given = pytree.tree_map(lambda value, group=group: None if value == group else value, [node.args, node.kwargs])
        texts.append(f"{node.name} {node.op} {node.target} {given} {shapes}")
    return Traced(tuple(calls), hashlib.sha256("\n".join(texts).encode()).hexdigest())


def rank_facts(
    report: Report,
    graphs: Iterable[fx.Graph],
    calls: Iterable[Fact],
    *,
    settings: Mapping[str, Any],
    rules: str,
    ranges: Mapping[sympy.Symbol, Range],
) -> list[Fact]:
    """What has to be the same on every rank, causes first, so that the first difference says most.

    Args:
        report: of its compilation.
        graphs: the lowered graph and those inside its ops.
        calls: of the captured graph.
        settings: of the compilation, as JSON values.
        rules: digest of the rule set.
        ranges: symbol of the graphs -> the sizes that it may take.
    """
    facts = [Fact("PyTorch", torch.__version__), Fact("TensorRT", report.tensorrt or "none")]
    facts += [Fact(f"the setting {name}", json.dumps(settings[name])) for name in sorted(settings) if name not in _OWN]
    facts += [Fact("the digest of all rules", rules), Fact("the model", report.model)]
    for graph in graphs:
        facts.extend(_exchanges(graph, ranges))
    return [*facts, *calls]


def decisions(report: Report) -> list[Fact]:
    """Where each node runs, and by which rule, which is the same on ranks that have the same graph."""
    facts = []
    for decision in report.decisions.listed() if report.decisions is not None else ():
        how = f"by rule {decision.rule} ({decision.rule_at})" if decision.rule else f"because {decision.reason}"
        place = "in an engine" if decision.color == "tensorrt" else "in PyTorch"
        at = f", from {decision.source}" if decision.source else ""
        facts.append(Fact(decision.node, f"{decision.op} {place} ({decision.segment or 'unread'}) {how}{at}"))
    return facts


def in_pytorch(model: str, reason: str) -> list[Fact]:
    """What a rank decided that leaves the whole graph to PyTorch."""
    return [Fact("PyTorch", torch.__version__), Fact("TensorRT", "none"), Fact(model, f"in PyTorch because {reason}")]


def _exchanges(graph: fx.Graph, ranges: Mapping[sympy.Symbol, Range]) -> Iterator[Fact]:
    """The collectives of a graph, with what each rank gives; groups by their number, as their names differ."""
    numbers: dict[str, int] = {}
    for index, node in enumerate(collectives(graph)):
        group = group_of(node) or ""
        number = numbers.setdefault(group, len(numbers))
        given = [_shape(operand.meta.get("val"), ranges) for operand in node.all_input_nodes]
        plain = [str(value) for value in (*node.args, *node.kwargs.values()) if isinstance(value, int)]
        plain += [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, str) and value != group]
        what = f"{node.target} of {', '.join(given)} ({', '.join([*plain, f'process group {number}'])})"
        yield Fact(f"collective {index}, {describe(node)}", what)


def _shape(value: Any, ranges: Mapping[sympy.Symbol, Range]) -> str:
    values = value if isinstance(value, list | tuple) else [value]
    return " and ".join(_tensor(each, ranges) for each in values)


def _tensor(value: Any, ranges: Mapping[sympy.Symbol, Range]) -> str:
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(_size(size, ranges) for size in value.shape)}]"


def _size(size: Any, ranges: Mapping[sympy.Symbol, Range]) -> str:
    size = normal(size)
    if not isinstance(size, sympy.Expr):
        return str(size)
    spans = {str(symbol): str(ranges[symbol]) for symbol in size.free_symbols if symbol in ranges}
    return f"{size} with {', '.join(f'{name} = {spans[name]}' for name in sorted(spans))}" if spans else str(size)


__all__ = ["Traced", "decisions", "in_pytorch", "rank_facts", "traced"]
