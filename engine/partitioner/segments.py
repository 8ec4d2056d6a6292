"""Partition: the segments of a graph, each of which runs in one place, read from the levels of its colouring."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import networkx
import torch
from torch import fx

from engine.graph.marks import BOUNDARY_CAST
from engine.graph.mirror import Mirror, Value
from engine.partitioner.coloring import Color, Quotient
from engine.partitioner.tile import Tile
from engine.partitioner.tiling import Tiling

# What only quantization makes and dequantization reads: TensorRT has no inputs and outputs of it.
_INSIDE = frozenset({torch.float8_e4m3fn})


@dataclass(frozen=True, slots=True)
class Segment:
    """Nodes that run together.

    Attributes:
        name: ``engine_0``, ``torch_0``, ... in order of execution.
        backend: ``"tensorrt"`` or ``"torch"``.
        nodes: nodes in graph order (for TensorRT: tile roots and what they absorb).
        tiles: tiles in graph order, empty for PyTorch.
        inputs: values read from outside, constants excluded, in order of first use.
        outputs: values that others read, in graph order.
    """

    name: str
    backend: str
    nodes: tuple[fx.Node, ...]
    tiles: tuple[Tile, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    def every_tile(self) -> Iterator[Tile]:
        """The tiles, each with those of the graphs that it runs."""
        for chosen in self.tiles:
            yield chosen
            yield from chosen.inside()
            yield from chosen.below()


@dataclass(frozen=True, slots=True)
class Partition:
    """All segments in order of execution, and why nodes are in PyTorch."""

    segments: tuple[Segment, ...]
    reasons: dict[fx.Node, str]

    @property
    def engines(self) -> tuple[Segment, ...]:
        """The segments that become TensorRT engines."""
        return tuple(segment for segment in self.segments if segment.backend == "tensorrt")


def partition(mirror: Mirror, tiling: Tiling, *, min_block_size: int) -> Partition:
    """Grow segments from a tiling; segments under ``min_block_size`` tiles go to PyTorch.

    A graph that is covered whole, but for casts that a setting asked for, is one engine however small it is: it has no
    boundary to pay for.
    """
    reasons = dict(tiling.reasons)
    tiles = dict(tiling.tiles)
    while True:
        quotient = Quotient(mirror, tiles, reasons)
        levels = quotient.levels()
        crossing = _crossing(mirror, tiles, quotient, levels)
        if crossing:
            for node, reason in crossing.items():
                _give_up(tiles, reasons, node, reason)
            continue
        counts = {level: sum(tiles[node].size for node in nodes) for level, nodes in levels.items() if level % 2}
        small = [level for level, count in counts.items() if count < min_block_size]
        if not small or all(BOUNDARY_CAST in node.meta for node in reasons):
            break
        for level in small:
            for node in levels[level]:
                reason = f"its segment of {counts[level]} tiles is smaller than min_block_size={min_block_size}"
                _give_up(tiles, reasons, node, reason)
    return Partition(tuple(_segments(mirror, tiles, quotient, levels)), dict(sorted(reasons.items())))


def _give_up(tiles: dict[fx.Node, Tile], reasons: dict[fx.Node, str], node: fx.Node, reason: str) -> None:
    """Leave a tile to PyTorch."""
    for member in tiles.pop(node).nodes:
        if member not in tiles:
            reasons[member] = reason


def _crossing(
    mirror: Mirror, tiles: dict[fx.Node, Tile], quotient: Quotient, levels: dict[int, list[fx.Node]]
) -> dict[fx.Node, str]:
    """Tiles at the ends of float8 values that would enter or leave an engine, with the reason against them."""
    home = {node: level for level, nodes in levels.items() for node in nodes}
    found: dict[fx.Node, str] = {}

    def inside(value: Value) -> bool:
        return mirror.is_tensor(value) and mirror.dtype(value) in _INSIDE and not mirror.is_const(value)

    for node, level in home.items():
        for value in filter(inside, quotient.operands[node]):
            if home.get(value.node) == level:
                continue
            kind = str(mirror.dtype(value)).removeprefix("torch.")
            if node in tiles:
                made = f"{value.node.name} is made outside of it"
                found.setdefault(node, f"engines take no {kind} from outside, and {made}")
            if value.node in tiles:
                read = f"{node.name} ({mirror.op(node)}), which reads it, is not in the same engine"
                found.setdefault(value.node, f"a {kind} value cannot leave an engine, and {read}")
    for operand in mirror.graph.output_node().all_input_nodes:
        value = mirror.value(operand)
        if value.node in tiles and inside(value):
            kind = str(mirror.dtype(value)).removeprefix("torch.")
            found.setdefault(value.node, f"a {kind} value cannot leave an engine, and the model returns it")
    return found


def _segments(
    mirror: Mirror, tiles: dict[fx.Node, Tile], quotient: Quotient, levels: dict[int, list[fx.Node]]
) -> Iterator[Segment]:
    home = {node: level for level, nodes in levels.items() for node in nodes}
    readers: dict[Value, set[int]] = defaultdict(set)
    for node, level in home.items():
        for value in quotient.operands[node]:
            readers[value].add(level)
    for operand in mirror.graph.output_node().all_input_nodes:
        readers[mirror.value(operand)].add(-1)
    crossings = {(home[before], home[after]) for before, after in quotient.graph.edges}
    between = networkx.DiGraph((before, after) for before, after in crossings if before != after)
    assert networkx.is_directed_acyclic_graph(between), "segments read each other's results in a circle"
    counts = dict.fromkeys(Color, 0)
    for level, roots in levels.items():
        color = Color.TENSORRT if level % 2 else Color.PYTORCH
        own = tuple(tiles[node] for node in roots) if color is Color.TENSORRT else ()
        nodes = sorted({member for tile in own for member in tile.nodes} or set(roots))
        inputs = dict.fromkeys(
            value
            for node in roots
            for value in quotient.operands[node]
            if home.get(value.node) != level and not mirror.is_const(value)
        )
        outputs = [value for node in roots for value in mirror.outputs(node) if readers.get(value, set()) - {level}]
        name = f"{'engine' if color is Color.TENSORRT else 'torch'}_{counts[color]}"
        counts[color] += 1
        yield Segment(name, color.value, tuple(nodes), own, tuple(inputs), tuple(outputs))
