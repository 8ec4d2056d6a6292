"""Partition: maximal convex segments of nodes that run in one place.

Every node that computes gets a *phase*: the least number that is at least the phases of its operands and whose
parity says where it runs (even: PyTorch, odd: TensorRT).  Phases never decrease along an edge, so no path
leaves a phase and comes back: each phase is convex, and the number of phases is the least possible.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from engine.capture.substitution import CROSSING
from engine.graph.mirror import Mirror, Value
from engine.partitioner.tile import Tile
from engine.partitioner.tiling import Tiling


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
        phases = _phases(mirror, tiles, reasons)
        counts = {phase: sum(tiles[node].size for node in nodes) for phase, nodes in phases.items() if phase % 2}
        small = [phase for phase, count in counts.items() if count < min_block_size]
        if not small or all(CROSSING in node.meta for node in reasons):
            break
        for phase in small:
            for node in phases[phase]:
                reason = f"its segment of {counts[phase]} tiles is under min_block_size={min_block_size}"
                for member in tiles.pop(node).nodes:
                    if member not in tiles:
                        reasons[member] = reason
    return Partition(tuple(_segments(mirror, tiles, phases)), dict(sorted(reasons.items())))


def _operands(mirror: Mirror, node: fx.Node, tiles: dict[fx.Node, Tile]) -> Iterator[Value]:
    """Values that a tile root or a PyTorch node reads."""
    if node in tiles:
        yield from tiles[node].operands()
    else:
        for operand in node.all_input_nodes:
            if not mirror.is_size(operand):
                yield mirror.value(operand)


def _phases(mirror: Mirror, tiles: dict[fx.Node, Tile], reasons: dict[fx.Node, str]) -> dict[int, list[fx.Node]]:
    phase: dict[fx.Node, int] = {}
    members: dict[int, list[fx.Node]] = defaultdict(list)
    for node in mirror.graph.nodes:
        if node not in tiles and node not in reasons:
            continue
        least = max((phase.get(value.node, 0) for value in _operands(mirror, node, tiles)), default=0)
        phase[node] = least if least % 2 == (node in tiles) else least + 1
        members[phase[node]].append(node)
    return dict(sorted(members.items()))


def _segments(mirror: Mirror, tiles: dict[fx.Node, Tile], phases: dict[int, list[fx.Node]]) -> Iterator[Segment]:
    home = {node: phase for phase, nodes in phases.items() for node in nodes}
    readers: dict[Value, set[int]] = defaultdict(set)
    for node, phase in home.items():
        for value in _operands(mirror, node, tiles):
            readers[value].add(phase)
    for operand in mirror.graph.output_node().all_input_nodes:
        readers[mirror.value(operand)].add(-1)
    counts = {"tensorrt": 0, "torch": 0}
    for phase, roots in phases.items():
        backend = "tensorrt" if phase % 2 else "torch"
        own = tuple(tiles[node] for node in roots) if phase % 2 else ()
        nodes = sorted({member for tile in own for member in tile.nodes} or set(roots))
        inputs = dict.fromkeys(
            value
            for node in roots
            for value in _operands(mirror, node, tiles)
            if home.get(value.node) != phase and not mirror.is_const(value)
        )
        outputs = [value for node in roots for value in mirror.outputs(node) if readers.get(value, set()) - {phase}]
        name = f"{'engine' if phase % 2 else 'torch'}_{counts[backend]}"
        counts[backend] += 1
        yield Segment(name, backend, tuple(nodes), own, tuple(inputs), tuple(outputs))
