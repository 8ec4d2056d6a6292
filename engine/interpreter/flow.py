"""Loops and if-conditionals."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engine.errors import InterpreterError
from engine.interpreter.step import Block, Region, Step

# The layers that loops and conditionals begin and end with; they are run with what they are of.
BOUNDARY = frozenset(
    {"RECURRENCE", "ITERATOR", "TRIP_LIMIT", "LOOP_OUTPUT", "CONDITION", "CONDITIONAL_INPUT", "CONDITIONAL_OUTPUT"}
)

Values = dict[int, Tensor]
Runner = Callable[[Block, Values, frozenset[int] | None], None]


def run_conditional(region: Region, values: Values, run: Runner) -> None:
    """Run the side of a conditional that its condition selects, and only that side.

    The true side is input 0 of each output layer, the false side input 1 (``IIfConditional``).
    """
    condition = next((step for step in region.boundary if step.type == "CONDITION"), None)
    if condition is None:
        raise InterpreterError(f"conditional {region.name!r} has no condition")
    side = 0 if bool(values[_read(condition, 0)]) else 1
    for step in region.boundary:
        if step.type == "CONDITIONAL_INPUT":
            values[step.outputs[0]] = values[_read(step, 0)]
    outputs = [step for step in region.boundary if step.type == "CONDITIONAL_OUTPUT"]
    run(region.body, values, _needed(region.body, [_read(step, side) for step in outputs]))
    for step in outputs:
        values[step.outputs[0]] = values[_read(step, side)]
    _clear(region, values)


def run_loop(region: Region, values: Values, run: Runner) -> None:
    """Run a loop until its count is reached or its condition is false, whichever comes first.

    The condition of a WHILE limit is computed from the recurrences before each trip; a trip that it stops
    contributes to no output.  LAST_VALUE of a recurrence is the value it has when the loop ends, and its
    initial value for a loop without trips.  CONCATENATE and REVERSE outputs have the length of their
    second input; positions that no trip reaches hold zeros (``ILoop``, ``ILoopOutputLayer``).
    """
    boundary = region.boundary
    limits = {step["kind"]: step for step in boundary if step.type == "TRIP_LIMIT"}
    if not limits:
        raise InterpreterError(f"loop {region.name!r} has no trip limit")
    count = int(values[_read(limits["COUNT"], 0)]) if "COUNT" in limits else None
    recurrences = [step for step in boundary if step.type == "RECURRENCE"]
    iterators = [step for step in boundary if step.type == "ITERATOR"]
    outputs = [step for step in boundary if step.type == "LOOP_OUTPUT"]
    for step in recurrences:
        values[step.outputs[0]] = values[_read(step, 0)]
    condition = _read(limits["WHILE"], 0) if "WHILE" in limits else None
    until = _needed(region.body, [condition] if condition is not None else [])
    rest = frozenset(value for node in region.body.nodes for value in node.outputs) - until
    collected: dict[int, list[Tensor]] = {step.outputs[0]: [] for step in outputs}
    last: dict[int, Tensor] = {}
    # Values computed for the condition are read again by the rest of the trip, so nothing is freed early.
    body = Block(region.body.nodes, tuple(() for _ in region.body.nodes))
    trip = 0
    while count is None or trip < count:
        run(body, values, until)
        if condition is not None and not bool(values[condition]):
            break
        for step in iterators:
            values[step.outputs[0]] = _iterate(step, values, trip, count)
        run(body, values, rest)
        for step in outputs:
            if step["kind"] != "LAST_VALUE":
                collected[step.outputs[0]].append(values[_read(step, 0)])
            else:
                last[step.outputs[0]] = values[_read(step, 0)]
        following = [values[_read(step, 1)] for step in recurrences]
        for step, value in zip(recurrences, following, strict=True):
            values[step.outputs[0]] = value
        trip += 1
    carried = {step.outputs[0] for step in recurrences}
    for step in outputs:
        source = _read(step, 0)
        if step["kind"] != "LAST_VALUE":
            length = int(values[_read(step, 1)])
            values[step.outputs[0]] = _join(step, collected[step.outputs[0]], length)
        elif source in carried or trip == 0:
            if source not in values:
                raise InterpreterError(f"loop {region.name!r} made no trip and {step.name!r} has no value")
            values[step.outputs[0]] = values[source]
        else:
            values[step.outputs[0]] = last[step.outputs[0]]
    _clear(region, values)


def _iterate(step: Step, values: Values, trip: int, count: int | None) -> Tensor:
    tensor = values[_read(step, 0)]
    if step["reverse"] and count is None:
        raise InterpreterError(f"iterator {step.name!r} runs in reverse and its loop has no count")
    index = count - 1 - trip if step["reverse"] and count is not None else trip
    axis = step["axis"]
    if not 0 <= index < tensor.shape[axis]:
        # An iterator is a gather, and a gather out of bounds reads zeros.
        return torch.zeros_like(tensor.select(axis, 0))
    return tensor.select(axis, index)


def _join(step: Step, parts: list[Tensor], length: int) -> Tensor:
    axis = step["axis"]
    if not parts:
        raise InterpreterError(f"loop output {step.name!r} has nothing to concatenate: the loop made no trip")
    if len(parts) > length:
        raise InterpreterError(f"loop output {step.name!r} has length {length}; the loop made {len(parts)} trips")
    parts = parts + [torch.zeros_like(parts[0])] * (length - len(parts))
    return torch.stack(parts[::-1] if step["kind"] == "REVERSE" else parts, axis)


def _read(step: Step, index: int) -> int:
    value = step.inputs[index] if index < len(step.inputs) else None
    if value is None:
        raise InterpreterError(f"layer {step.name!r} ({step.type}) lacks input {index}")
    return value


def _needed(block: Block, wanted: list[int]) -> frozenset[int]:
    """Every value of ``block`` that computing ``wanted`` takes, ``wanted`` included."""
    needed = set(wanted)
    for node in reversed(block.nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.outputs)
            needed.update(value for value in node.inputs if value is not None)
    return frozenset(needed)


def _clear(region: Region, values: Values) -> None:
    keep = set(region.outputs)
    for step in region.boundary:
        for value in step.outputs:
            if value not in keep:
                values.pop(value, None)
    for node in region.body.nodes:
        for value in node.outputs:
            values.pop(value, None)
