"""Tiling: the best ``convert`` rule for every value that is needed.

Nodes are visited from the outputs back to the inputs.  A node that something needs takes the first rule, in
precedence order, whose pattern matches at it and whose plan can be made; the nodes inside the match are
absorbed, and the plan's operands are needed in turn.  Values that are not needed are never built.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import fx

from engine.dtypes import representable
from engine.evaluator import Context, Failure, apply
from engine.graph.marks import BOUNDARY_CAST
from engine.graph.mirror import Mirror, Value
from engine.matcher.matcher import Matcher
from engine.partitioner.attempts import Attempts
from engine.partitioner.tile import Tile
from engine.partitioner.unsupported import with_nature
from engine.rewriter.folding import moves

# (node name, rule id) -> why that pair must not be used again: TensorRT rejected it, or the engine did not load.
Rejections = Mapping[tuple[str, str], str]


@dataclass(slots=True)
class Tiling:
    """The outcome of tiling.

    Attributes:
        tiles: by root node.
        absorbed: interior node -> root of the tile that covers it; a node that others need as well has a tile
            of its own and is not listed.
        reasons: uncovered node that must be computed -> why it has no tile.
    """

    tiles: dict[fx.Node, Tile] = field(default_factory=dict)
    absorbed: dict[fx.Node, fx.Node] = field(default_factory=dict)
    reasons: dict[fx.Node, str] = field(default_factory=dict)

    def covered(self, node: fx.Node) -> bool:
        """Whether the node is in a tile."""
        return node in self.tiles or node in self.absorbed


def computes(mirror: Mirror, node: fx.Node) -> bool:
    """Whether a node does work at run time: not an input, constant, projection or shape arithmetic."""
    if node.op in ("placeholder", "get_attr", "output"):
        return False
    op = mirror.op(node)
    if op == "getitem" or mirror.is_size(node):
        return False
    return not mirror.is_const(Value(node, 0))


def coverage(mirror: Mirror, outside: Container[fx.Node]) -> tuple[int, float]:
    """How many nodes compute, and the share of them that is not outside engines; 1 where none computes.

    Constants that PyTorch needs may be outside, and do not compute.
    """
    computing = [node for node in mirror.graph.nodes if computes(mirror, node)]
    lost = sum(node in outside for node in computing)
    return len(computing), 1.0 - lost / len(computing) if computing else 1.0


def tile(
    attempts: Attempts,
    *,
    excluded: Callable[[fx.Node], str | None],
    rejections: Rejections,
    dtype_advice: Mapping[torch.dtype, str] | None = None,
) -> Tiling:
    """Tile the graph of ``attempts`` with its ``convert`` rules.

    Args:
        excluded: why a node must stay in PyTorch, None if it need not.
        rejections: pairs of node and rule that were tried and failed.
        dtype_advice: what to do about values of a dtype that TensorRT does not have.
    """
    context, matcher = attempts.context, attempts.matchers["convert"]
    mirror = context.mirror
    tiling = Tiling()
    needed: set[fx.Node] = set()
    made: dict[fx.Node, Tile | None] = {}

    def constants(chosen: Tile, read: Iterable[Value]) -> tuple[Tile, ...]:
        if not any(map(mirror.is_const, read)):
            return ()
        nodes = dict.fromkeys(value.node for value in chosen.tensors() if mirror.is_const(value))
        return tuple(filter(None, map(constant, nodes)))

    def constant(node: fx.Node) -> Tile | None:
        """The tile of a constant that folding left as an op, if dequantizing is what makes it."""
        if node.op == "call_function" and node not in made:
            made[node] = None
            if moves(mirror, node) or any(rule.dequantizes for rule in matcher.roots_of(mirror.op(node))):
                found, _ = _best(matcher, context, node, excluded, rejections)
                found = None if found is None else replace(found, constants=constants(found, found.operands()))
                made[node] = found if found is not None and (found.dequantizes or found.constants) else None
        return made.get(node)

    inside: dict[fx.Node, fx.Node] = {}
    for node in reversed(mirror.graph.nodes):
        if node.op == "output":
            needed.update(mirror.value(operand).node for operand in node.all_input_nodes)
        if node not in needed or not computes(mirror, node):
            continue
        reason = excluded(node) or node.meta.get(BOUNDARY_CAST)
        chosen: Tile | None = None
        read: tuple[Value, ...] = ()
        if reason is None:
            reason = _foreign(mirror, mirror.outputs(node), dtype_advice or {})
        if reason is None:
            chosen, reason = _best(matcher, context, node, excluded, rejections)
            reason = attempts.reason(node, reason) if chosen is None else None
        if chosen is not None:
            read = tuple(chosen.operands())
            reason = _foreign(mirror, read, dtype_advice or {})
            chosen = None if reason else replace(chosen, constants=constants(chosen, read))
        if chosen is None:
            tiling.reasons[node] = reason or ""
            needed.update(mirror.value(operand).node for operand in node.all_input_nodes)
            continue
        tiling.tiles[node] = chosen
        for interior in chosen.nodes:
            if interior is not node:
                inside[interior] = node
        needed.update(value.node for value in read)
    tiling.absorbed = {
        node: root for node, root in inside.items() if node not in tiling.tiles and node not in tiling.reasons
    }
    return tiling


def _best(
    matcher: Matcher,
    context: Context,
    node: fx.Node,
    excluded: Callable[[fx.Node], str | None],
    rejections: Rejections,
) -> tuple[Tile | None, str | None]:
    """The tile for a node, or why a rule that fits it cannot be used; neither where no rule fits."""
    mirror = context.mirror
    rejected: str | None = None
    guards_held: list[str] = []
    guards_failed: list[str] = []
    for match in matcher.matches(node):
        rejection = rejections.get((node.name, match.rule.id))
        if rejection is not None:
            rejected = rejection
            continue
        if any(excluded(interior) for interior in match.nodes):
            continue
        plan = apply(match.rule, match, context)
        if isinstance(plan, Failure):
            reason = f"{match.rule.id} ({match.rule.where}) does not apply: {plan.reason}"
            (guards_held if plan.guarded else guards_failed).append(reason)
            continue
        missing = [i for i, output in enumerate(plan.outputs) if output is None and not mirror.unused(Value(node, i))]
        if missing:
            guards_held.append(f"{match.rule.id} ({match.rule.where}) does not emit output {missing[0]}, which is used")
            continue
        numbers = [value for value in mirror.outputs(node) if _is_number(mirror, value) and not mirror.unused(value)]
        if numbers:
            guards_held.append(
                f"its output {numbers[0].index} is a Python number that is used, and engines return only tensors"
            )
            continue
        return Tile(node, match.rule, plan, match.nodes), None
    failed = next(iter([*guards_held, *guards_failed]), None)
    return None, rejected or (failed and with_nature(failed, mirror, node))


def _is_number(mirror: Mirror, value: Value) -> bool:
    return isinstance(mirror.fake(value), torch.SymInt | torch.SymFloat | torch.SymBool)


def _foreign(mirror: Mirror, values: Iterable[Value], advice: Mapping[torch.dtype, str]) -> str | None:
    """Why the dtypes of values at a tile's boundary keep it out of every network, if they do."""
    for value in values:
        fake = mirror.fake(value)
        if isinstance(fake, torch.Tensor) and not representable(fake.dtype):
            text = f"TensorRT has no {str(fake.dtype).removeprefix('torch.')} tensors"
            return text + (f"; {advice[fake.dtype]}" if fake.dtype in advice else "")
    return None
