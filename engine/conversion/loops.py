"""The two ends of a TensorRT loop; the layers between them are added as anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from engine.conversion.scope import NetworkScope, Refused
from engine.conversion.shapes import ShapeTensors
from engine.plan import AbstractTensor, LoopEnd, LoopStart
from engine.tensorrt import load

Tensors = Callable[[AbstractTensor], Any]
"""The network tensor of an abstract one."""


class LoopEmission:
    """The loops of one tile.

    Args:
        name: what the layers' names begin with.
        metadata: of every layer.
    """

    def __init__(self, scope: NetworkScope, shapes: ShapeTensors, name: str, metadata: Mapping[str, str]) -> None:
        self._scope = scope
        self._shapes = shapes
        self._name = name
        self._metadata = metadata
        # id of a start -> the loop, its recurrences, and stand-ins through which their changes are noted
        self._open: dict[int, tuple[Any, list[Any], list[Any]]] = {}

    def start(self, call: LoopStart, tensor: Tensors) -> tuple[Any, ...]:
        """Open a loop; gives the states and the elements of a trip.

        Raises:
            Refused: TensorRT does not take a part of it.
        """
        loop = self._scope.network.add_loop()
        if loop is None:
            raise Refused("add_loop returned no loop")
        loop.name = self._scope.unique(f"{self._name}/loop")
        self._scope.transcript.region("add_loop", loop)
        if call.values["trips"] is not None:
            self._add(loop, "add_trip_limit", (self._trips(call), load().TripLimit.COUNT), "trips")
        changed: list[Any] = []
        states = [
            self._add(loop, "add_recurrence", (tensor(state),), "state", changed.append)
            for state in call.values["states"]
        ]
        elements = [
            self._add(loop, "add_iterator", (tensor(element), call.axis, call.reverse), "element")
            for element in call.values["elements"]
        ]
        self._open[id(call)] = loop, states, changed
        return tuple(layer.get_output(0) for layer in (*states, *elements))

    def end(self, call: LoopEnd, tensor: Tensors) -> tuple[Any, ...]:
        """Close a loop; gives the last states and what its trips gave.

        Raises:
            Refused: TensorRT does not take a part of it.
        """
        outputs = load().LoopOutput
        loop, states, changed = self._open.pop(id(call.start))
        if call.values["condition"] is not None:
            # Computed inside, from the states: TensorRT looks at it before each trip.
            self._add(loop, "add_trip_limit", (tensor(call.values["condition"]), load().TripLimit.WHILE), "condition")
        for state, following in zip(changed, call.values["following"], strict=True):
            state.set_input(1, tensor(following))
        made = [
            self._add(loop, "add_loop_output", (state.get_output(0), outputs.LAST_VALUE), "last") for state in states
        ]
        kind = outputs.REVERSE if call.start.reverse else outputs.CONCATENATE
        for given in call.values["given"]:
            trips = self._trips(call.start)
            arguments = (tensor(given), kind, call.start.axis)
            made.append(self._add(loop, "add_loop_output", arguments, "trip", _setting(1, trips)))
        return tuple(self._scope.output(layer)[0] for layer in made)

    def _trips(self, call: LoopStart) -> Any:
        return self._shapes.scalar(call.values["trips"], torch.int32)

    def _add(
        self, loop: Any, method: str, arguments: tuple[Any, ...], what: str, then: Callable[[Any], None] | None = None
    ) -> Any:
        name = f"{self._name}/{what}"
        return self._scope.add(method, arguments, name, then=then, metadata=self._metadata, owner=loop)


def _setting(index: int, tensor: Any) -> Callable[[Any], None]:
    return lambda layer: layer.set_input(index, tensor)


__all__ = ["LoopEmission"]
