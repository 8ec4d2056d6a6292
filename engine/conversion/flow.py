"""The parts of a plan that are not layers: loops, conditionals, and graphs that an op runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.conversion.conditionals import ConditionalEmission
from engine.conversion.loops import LoopEmission, Tensors
from engine.conversion.scope import NetworkScope
from engine.conversion.shapes import ShapeTensors
from engine.evaluator.plan import ConditionalStart, FlowCall, GraphCall, LoopEnd, LoopStart


class FlowEmission:
    """The loops, conditionals and graphs of one tile.

    Args:
        run: replays a graph.
        name: what the layers' names begin with.
        metadata: of every layer.
    """

    def __init__(
        self,
        scope: NetworkScope,
        shapes: ShapeTensors,
        run: Callable[[GraphCall, Tensors], tuple[Any, ...]],
        name: str,
        metadata: Mapping[str, str],
    ) -> None:
        self._run = run
        self._loops = LoopEmission(scope, shapes, name, metadata)
        self._conditionals = ConditionalEmission(scope, name, metadata)

    def add(self, call: FlowCall, tensor: Tensors) -> tuple[Any, ...]:
        """Add one end of a loop or conditional, or a whole graph; returns the outputs."""
        if isinstance(call, GraphCall):
            return self._run(call, tensor)
        if isinstance(call, LoopStart):
            return self._loops.start(call, tensor)
        if isinstance(call, LoopEnd):
            return self._loops.end(call, tensor)
        if isinstance(call, ConditionalStart):
            return self._conditionals.start(call, tensor)
        return self._conditionals.end(call, tensor)


__all__ = ["FlowEmission"]
