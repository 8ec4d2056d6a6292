"""Questions about a lowered graph: why a node is where it is, what its fallbacks cost, what a change would win."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from engine.capture.substitution import ADVICE
from engine.errors import InputError
from engine.graph.marks import BOUNDARY_CAST
from engine.graph.mirror import Mirror, Value
from engine.graph.provenance import history, model_line, module_path, op_name
from engine.lowering.lowered_graph import LoweredGraph
from engine.lowering.rule_skeleton import skeleton
from engine.lowering.subgraphs import Subgraphs
from engine.matcher.wording import show
from engine.partitioner import Partition, Tile, partition
from engine.partitioner.attempts import Attempt
from engine.partitioner.tiling import coverage
from engine.report.decisions import Placement
from engine.report.why import Costly, Gain, Step, Tried, Why
from engine.rewriter.decomposition import has_decomposition
from engine.settings import CompilationSettings

# Names that are offered where one is not there.
_MOST_NEAR = 5
# Smallest engines that are tried out; few models have segments of more tiles that stay out for their size.
_BLOCK_SIZES = (1, 2, 3, 5, 8, 13, 21)


@dataclass(frozen=True, eq=False)
class _Imagined:
    """A tile for a node that no rule takes, as the partitioner sees tiles."""

    mirror: Mirror
    node: fx.Node

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        return (self.node,)

    @property
    def size(self) -> int:
        return 1

    def operands(self) -> Iterator[Value]:
        return iter(self.mirror.inputs(self.node))

    def inside(self) -> Iterator[Tile]:
        return iter(())


class Explanation:
    """Answers about one compilation, worked out when they are asked for."""

    def __init__(
        self,
        graph: LoweredGraph,
        subgraphs: Subgraphs,
        placed: Partition,
        placements: Mapping[fx.Node, Placement],
        settings: CompilationSettings,
    ) -> None:
        self.graph = graph
        self.mirror = graph.mirror
        self.placed = placed
        self._subgraphs = subgraphs
        self._placements = placements
        self._settings = settings

    # ------------------------------------------------------------------------------------ why

    def why(self, name: str) -> Why:
        """Why a node runs where it does.

        Args:
            name: of a node of the lowered graph, of one inside its ops, or of one that was rewritten.

        Raises:
            InputError: there is no such node; nearest names are offered.
        """
        graphs: list[LoweredGraph] = [self.graph, *self._subgraphs]
        for graph in graphs:
            node = _named(graph.mirror, name)
            if node is not None:
                return self._of(graph, node)
        replaced = self._replaced(name)
        if replaced is not None:
            return replaced
        known = [node.name for graph in graphs for node in graph.mirror.graph.nodes if node.op == "call_function"]
        near = difflib.get_close_matches(name, known, n=_MOST_NEAR, cutoff=0.5)
        of_op = [node for node in known if name in node][:_MOST_NEAR]
        offered = list(dict.fromkeys([*of_op, *near]))[:_MOST_NEAR] or known[:_MOST_NEAR]
        hint = f"did you mean {', '.join(offered)}?" if offered else "its graph computes nothing"
        raise InputError(f"there is no node {name!r}; {hint}")

    def _of(self, graph: LoweredGraph, node: fx.Node) -> Why:
        mirror = graph.mirror
        op = op_name(node, mirror.op(node)) if node.op == "call_function" else node.op
        placement = self._placements.get(node, Placement(""))
        steps: tuple[Step, ...] = ()
        text = ""
        reason = placement.reason
        if node.op != "call_function":
            reason = reason or "it computes nothing: inputs and constants are wherever they are read"
        elif not placement.color and mirror.is_const(Value(node, 0)):
            reason = "its value is constant, and computed while compiling"
        else:
            steps = tuple(self._step(graph, node, kind, placement.rule) for kind in ("simplify", "lower"))
            steps += (self._decomposition(graph, node), self._step(graph, node, "convert", placement.rule))
            if not any(step.tried for step in steps) and isinstance(node.target, OpOverload):
                text = skeleton(mirror, node)
        return Why(
            node.name,
            op,
            self._call(mirror, node, op),
            placement.color,
            placement.segment,
            placement.rule,
            reason,
            module_path(node),
            model_line(node),
            tuple(map(str, history(node))),
            (),
            steps,
            text,
        )

    def _call(self, mirror: Mirror, node: fx.Node, op: str) -> str:
        if node.op != "call_function":
            return f"{node.name}: {op}"
        given = ", ".join(show(mirror, argument) for argument in mirror.arguments(node))
        outputs = [mirror.fake(value) for value in mirror.outputs(node)]
        gives = [show(mirror, Value(node, i)).partition(": ")[2] for i, fake in enumerate(outputs) if fake is not None]
        return f"{node.name} = {op}({given})" + (f" -> {', '.join(filter(None, gives))}" if any(gives) else "")

    def _step(self, graph: LoweredGraph, node: fx.Node, kind: str, chosen: str) -> Step:
        found = graph.attempts.of(node, kind)
        found.sort(key=lambda attempt: (attempt.rule.id != chosen, not attempt.applies, -attempt.passed))
        tried = tuple(self._tried(attempt, chosen) for attempt in found)
        return Step(kind, tried, "" if tried else f"no `{kind}` rule has this op as its root")

    def _tried(self, attempt: Attempt, chosen: str) -> Tried:
        if attempt.rule.id == chosen:
            outcome = "chosen"
        elif attempt.inactive:
            outcome = "inactive"
        else:
            outcome = "applies" if attempt.applies else "does not apply"
        return Tried(attempt.rule.id, attempt.rule.where, outcome, "" if outcome == "chosen" else attempt.reason)

    def _decomposition(self, graph: LoweredGraph, node: fx.Node) -> Step:
        reason = node.meta.get("undecomposed")
        if reason is None:
            there = isinstance(node.target, OpOverload) and has_decomposition(node.target)
            reason = "PyTorch has one, which is not used: " if there else ""
            reason += "a `convert` rule takes the op" if graph.convertible(node) else "it is not looked for"
        return Step("decomposition", (), reason)

    def _replaced(self, name: str) -> Why | None:
        """The answer for a node that rewriting took away."""
        steps: list[str] = []
        now: list[str] = [name]
        for application in self._subgraphs.trace.applications:
            if name in application.matched and not steps:
                steps.append(str(application))
                now = list(application.new)
            elif steps and set(now) & set(application.roots):
                steps.append(str(application))
                now = [item for item in now if item not in application.roots] + list(application.new)
        if not steps:
            return None
        there = tuple(item for item in now if _named(self.mirror, item) is not None)
        return Why(name, "rewritten", history=tuple(steps), now=there or ("another value",))

    # ------------------------------------------------------------------------------------ costs and gains

    def fallbacks(self) -> list[Costly]:
        """The nodes that stay in PyTorch, those that read and give the most elements first."""
        found = []
        for node, reason in self.placed.reasons.items():
            values = [*self.mirror.inputs(node), *self.mirror.outputs(node)]
            op = op_name(node, self.mirror.op(node))
            elements = sum(_elements(self.mirror.fake(value)) for value in values)
            found.append(Costly(node.name, op, reason, module_path(node), model_line(node), elements))
        return sorted(found, key=lambda item: (-item.elements, item.node))

    def gains(self) -> list[Gain]:
        """What a rule for an op, or another setting, would win: most nodes first, then most segments merged."""
        reasons = self.graph.tiling.reasons
        ops = dict.fromkeys(self.mirror.op(node) for node in reasons if BOUNDARY_CAST not in node.meta)
        least = self._settings.min_block_size
        found = []
        for op in ops:
            nodes = [node for node in reasons if self.mirror.op(node) == op]
            found.append(self._gain(f"a rule for {op_name(nodes[0], op)}", nodes, least))
        for advice in ADVICE.values():
            nodes = [node for node, reason in reasons.items() if advice in reason]
            if nodes:
                found.append(self._gain(advice.partition(" ")[0], nodes, least))
        smaller = [size for size in _BLOCK_SIZES if size < least]
        sizes = [self._gain(f"min_block_size={size}", [], size) for size in reversed(smaller)]
        # The largest of those that win the same.
        best = {(gain.nodes, gain.segments): gain for gain in reversed(sizes)}
        found += best.values()
        useful = [gain for gain in found if gain.nodes > 0 or gain.merged > 0]
        return sorted(useful, key=lambda gain: (-gain.nodes, -gain.merged, gain.what))

    def _gain(self, what: str, nodes: list[fx.Node], least: int) -> Gain:
        tiles: dict[fx.Node, Any] = {**self.graph.tiling.tiles}
        tiles.update((node, _Imagined(self.mirror, node)) for node in nodes)
        reasons = {node: reason for node, reason in self.graph.tiling.reasons.items() if node not in tiles}
        tiling = replace(self.graph.tiling, tiles=tiles, reasons=reasons)
        placed = partition(self.mirror, tiling, min_block_size=least)
        won = len(self.placed.reasons) - len(placed.reasons)
        merged = len(self.placed.segments) - len(placed.segments)
        return Gain(what, won, coverage(self.mirror, placed.reasons)[1], len(placed.segments), merged)


def _named(mirror: Mirror, name: str) -> fx.Node | None:
    return next((node for node in mirror.graph.nodes if node.name == name), None)


def _elements(fake: Any) -> int:
    """The elements of a tensor, at the example's sizes where they are not known."""
    if not isinstance(fake, torch.Tensor):
        return 0
    count = 1
    for size in fake.shape:
        if isinstance(size, torch.SymInt):
            hint = size.node.hint
            size = int(hint) if isinstance(hint, int) else 1
        count *= size
    return count


__all__ = ["Explanation"]
