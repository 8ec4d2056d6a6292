"""The two ends of a TensorRT loop; the layers between them are added as anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from engine.conversion.scope import NetworkScope, Rejected
from engine.conversion.shapes import ShapeTensors
from engine.evaluator.plan import AbstractTensor, CallOutput, LayerCall, LoopEnd, LoopStart
from engine.evaluator.uniform import MOVES
from engine.tensorrt import load

Tensors = Callable[[AbstractTensor], Any]
"""The network tensor of an abstract one."""


class LoopEmission:
    """The loops of one tile.

    Seen with TensorRT-RTX 1.6.1, without an error:

    - Where some size of the network is dynamic it loses count of states without dims: a loop that ends by a counter ran
      once, or for ever.  They are carried with one dim of size 1.
    - It sets the states for the next trip one after the other, so that a state that becomes what another one was gets
      what that one has become.  Such a state is computed anew.

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
        """Open a loop; returns the states and the elements of a trip.

        Raises:
            Rejected: TensorRT does not take a part of it.
        """
        loop = self._scope.network.add_loop()
        if loop is None:
            raise Rejected("add_loop returned no loop")
        loop.name = self._scope.unique(f"{self._name}/loop")
        self._scope.call_log.region("add_loop", loop)
        if call.values["trips"] is not None:
            self._add(loop, "add_trip_limit", (self._trips(call), load().TripLimit.COUNT), "trips")
        changed: list[Any] = []
        states = [
            self._add(loop, "add_recurrence", (self._carried(tensor(state)),), "state", changed.append)
            for state in call.values["states"]
        ]
        elements = [
            self._add(loop, "add_iterator", (tensor(element), call.axis, call.reverse), "element")
            for element in call.values["elements"]
        ]
        self._open[id(call)] = loop, states, changed
        inside = [
            self._like(state, layer.get_output(0)) for state, layer in zip(call.values["states"], states, strict=True)
        ]
        return (*inside, *(layer.get_output(0) for layer in elements))

    def end(self, call: LoopEnd, tensor: Tensors) -> tuple[Any, ...]:
        """Close a loop; returns the last states and the stacked results of its trips.

        Raises:
            Rejected: TensorRT does not take a part of it.
        """
        outputs = load().LoopOutput
        loop, states, changed = self._open.pop(id(call.start))
        if call.values["condition"] is not None:
            # Computed inside, from the states: TensorRT looks at it before each trip.
            self._add(loop, "add_trip_limit", (tensor(call.values["condition"]), load().TripLimit.WHILE), "condition")
        for state, following in zip(changed, call.values["following"], strict=True):
            becomes = tensor(following)
            if len(states) > 1 and not _is_computed(following):
                becomes = self._recomputed(becomes)
            self._scope.tell(state, _setting(1, self._carried(becomes)))
        made = [
            self._add(loop, "add_loop_output", (state.get_output(0), outputs.LAST_VALUE), "last") for state in states
        ]
        last = [
            self._like(state, self._scope.output(layer)[0])
            for state, layer in zip(call.start.values["states"], made, strict=True)
        ]
        kind = outputs.REVERSE if call.start.reverse else outputs.CONCATENATE
        stacks = []
        for given in call.values["given"]:
            trips = self._trips(call.start)
            arguments = (tensor(given), kind, call.start.axis)
            stack = self._add(loop, "add_loop_output", arguments, "trip", _setting(1, trips))
            stacks.append(self._scope.output(stack)[0])
        return (*last, *stacks)

    def _recomputed(self, tensor: Any) -> Any:
        # A layer that TensorRT does not take out, as it does an identity.
        operations = load().ElementWiseOperation
        same = operations.OR if tensor.dtype == load().bool else operations.MAX
        name = f"{self._name}/copy"
        return self._scope.add("add_elementwise", (tensor, tensor, same), name, metadata=self._metadata).get_output(0)

    def _carried(self, state: Any) -> Any:
        return state if len(state.shape) else self._scope.reshaped(state, (1,), f"{self._name}/carried")

    def _like(self, state: AbstractTensor, carried: Any) -> Any:
        return carried if state.shape else self._scope.reshaped(carried, (), f"{self._name}/without dims")

    def _trips(self, call: LoopStart) -> Any:
        return self._shapes.scalar(call.values["trips"], torch.int32)

    def _add(
        self, loop: Any, method: str, arguments: tuple[Any, ...], what: str, then: Callable[[Any], None] | None = None
    ) -> Any:
        name = f"{self._name}/{what}"
        return self._scope.add(method, arguments, name, then=then, metadata=self._metadata, owner=loop)


def _is_computed(tensor: AbstractTensor) -> bool:
    """Whether a layer of the rule itself makes new elements, and does not only move some."""
    call = tensor.call if isinstance(tensor, CallOutput) else None
    return isinstance(call, LayerCall) and call.layer.name not in MOVES


def _setting(index: int, tensor: Any) -> Callable[[Any], None]:
    return lambda layer: layer.set_input(index, tensor)


__all__ = ["LoopEmission"]
