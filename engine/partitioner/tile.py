"""A tile: the nodes that one ``convert`` rule covers, and what it will emit for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from engine.dsl.rule import Rule
from engine.evaluator.plan import Captured, GraphCall, LayerCall, OpCall, Plan, tensors
from engine.graph.mirror import Value


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """The only answer to "is this node covered?"; colouring, coverage, ``why`` and emission all read it.

    Attributes:
        node: the root; its outputs are the plan's outputs.
        rule: the rule that matched.
        plan: the layers to add.
        nodes: root and absorbed interior nodes, in graph order.
        constants: tiles of the constant operands that the engine makes of narrower ones, instead of holding them.
    """

    node: fx.Node
    rule: Rule
    plan: Plan
    nodes: tuple[fx.Node, ...]
    constants: tuple[Tile, ...] = ()

    def operands(self) -> Iterator[Value]:
        """Values of the graph that the plan reads, with repeats, in plan order."""
        for call in self.plan.calls:
            assert not isinstance(call, OpCall)
            for tensor in tensors(call.values):
                if isinstance(tensor, Captured):
                    yield tensor.value
        for output in self.plan.outputs:
            if isinstance(output, Captured):
                yield output.value

    def tensors(self) -> Iterator[Value]:
        """Those of the operands that layers read as tensors of the network, and not as weights."""
        for call in self.plan.calls:
            assert not isinstance(call, OpCall)
            as_weights = set()
            if isinstance(call, LayerCall):
                kinds = {parameter.name: parameter.type for parameter in call.layer.parameters}
                as_weights = {name for name, kind in kinds.items() if kind is not None and "weights" in kind.names}
            for tensor in tensors([value for name, value in call.values.items() if name not in as_weights]):
                if isinstance(tensor, Captured):
                    yield tensor.value

    @property
    def dequantizes(self) -> bool:
        """Whether the plan makes floats of narrower values."""
        return any(isinstance(call, LayerCall) and call.layer.name == "trt.dequantize" for call in self.plan.calls)

    def below(self) -> Iterator[Tile]:
        """The tiles of its constants and of what those are made of, operands first."""
        for tile in self.constants:
            yield from tile.below()
            yield tile

    def inside(self) -> Iterator[Tile]:
        """The tiles of the graphs that the plan runs, and of the graphs in those, in plan order."""
        for call in self.plan.calls:
            if isinstance(call, GraphCall):
                for tile in call.graph.tiles:
                    yield tile
                    yield from tile.inside()

    @property
    def size(self) -> int:
        """How many tiles this is, those of graphs that it runs included."""
        return 1 + sum(1 for _ in self.inside())
