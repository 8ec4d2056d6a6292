"""Loops on the right side of a rule: a macro that says one trip, made into the two ends of a TensorRT loop."""

from __future__ import annotations

from typing import Any

import torch

from engine import sizes as symints
from engine.dsl import tree
from engine.errors import Span
from engine.evaluator.builtins import describe
from engine.evaluator.failures import Failed
from engine.evaluator.plan import AbstractTensor, CallOutput, LoopEnd, LoopStart
from engine.sizes import Int, Sizes

# Parameters of `loop` behind the macro, with the defaults of those that may be missing.
PARAMETERS: dict[str, Any] = {"trips": ..., "states": ..., "elements": ..., "given": [], "axis": 0, "reverse": False}


def start(arguments: dict[str, Any], span: Span) -> LoopStart:
    """The entry of a loop.

    Args:
        arguments: by name of parameter.

    Raises:
        Failed: an argument is not what a loop takes.
    """
    values = PARAMETERS | arguments
    missing = [name for name, value in values.items() if value is ...]
    if missing:
        raise Failed(f"`loop` needs `{missing[0]}`", span)
    if values["trips"] is not None and not symints.is_symint(values["trips"]):
        raise Failed(f"the trips of a loop are a number or none, got {describe(values['trips'])}", span)
    if not isinstance(values["axis"], int):
        raise Failed(f"the axis of a loop must be known when compiling, it is {describe(values['axis'])}", span)
    states, elements = (_tensors(values[name], name, span) for name in ("states", "elements"))
    for element in elements:
        if element.shape is not None and values["axis"] >= len(element.shape):
            raise Failed(f"a loop along axis {values['axis']} of a tensor of rank {len(element.shape)}", span)
    entry = LoopStart(
        {"trips": values["trips"], "states": states, "elements": elements}, values["axis"], values["reverse"], span
    )
    of_trip = [(state.shape, state.dtype) for state in states]
    of_trip += [(_without(element.shape, entry.axis), element.dtype) for element in elements]
    entry.outputs = tuple(CallOutput(shape, dtype, entry, index) for index, (shape, dtype) in enumerate(of_trip))
    return entry


def end(entry: LoopStart, trip: Any, sizes: Sizes) -> tuple[list[AbstractTensor], list[AbstractTensor]]:
    """The results of a loop: the last states, and the other results of its trips, stacked.

    Args:
        trip: what the macro returns, ``(next states, given)``, or ``(condition, next states, given)``.

    Raises:
        Failed: that is not what a trip returns, or a state changes its shape or dtype.
    """
    span = entry.span
    counted = entry.values["trips"] is not None
    if not isinstance(trip, tuple | list) or len(trip) not in ((2, 3) if counted else (3,)):
        wanted = "a pair, " if counted else "the condition, "
        raise Failed(f"a trip returns {wanted}the next states and what is stacked; got {describe(trip)}", span)
    condition = trip[0] if len(trip) == 3 else None
    following, given = (_tensors(part, name, span) for part, name in zip(trip[-2:], ("states", "results"), strict=True))
    if len(trip) == 3:
        _check_condition(condition, span)
    if given and not counted:
        raise Failed(
            "a loop that only a condition ends cannot stack results, because its number of trips is not known", span
        )
    states = entry.outputs[: len(entry.values["states"])]
    if len(following) != len(states):
        raise Failed(f"a loop of {len(states)} states returns {len(following)} for the next trip", span)
    for before, after in zip(states, following, strict=True):
        if not _alike(before.dtype, after.dtype) or not _fit(before.shape, after.shape, sizes):
            raise Failed(f"a state of a loop goes from {describe(before)} to {describe(after)}", span)
    last = LoopEnd(entry, {"entry": entry.outputs, "condition": condition, "following": following, "given": given})
    kinds: list[tuple[tuple[Int, ...] | None, torch.dtype | None]] = [(state.shape, state.dtype) for state in states]
    kinds += [(_with(part.shape, entry.axis, entry.values["trips"]), part.dtype) for part in given]
    last.outputs = tuple(CallOutput(shape, dtype, last, index) for index, (shape, dtype) in enumerate(kinds))
    return list(last.outputs[: len(states)]), list(last.outputs[len(states) :])


def macro_of(call: tree.Call) -> str:
    """The name of the macro that a call of ``loop`` is given.

    Raises:
        Failed: there is none.
    """
    first = call.arguments[0] if call.arguments else None
    if not isinstance(first, tree.Name):
        raise Failed("`loop` needs a macro first", call.span)
    return first.name


def _tensors(value: Any, what: str, span: Span) -> tuple[AbstractTensor, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, AbstractTensor) for item in value):
        raise Failed(f"the {what} of a loop are a list of tensors, got {describe(value)}", span)
    return tuple(value)


def _without(shape: tuple[Int, ...] | None, axis: int) -> tuple[Int, ...] | None:
    return None if shape is None else (*shape[:axis], *shape[axis + 1 :])


def _with(shape: tuple[Int, ...] | None, axis: int, size: Int) -> tuple[Int, ...] | None:
    return None if shape is None else (*shape[:axis], size, *shape[axis:])


def _check_condition(condition: Any, span: Span) -> None:
    if not isinstance(condition, AbstractTensor) or condition.dtype != torch.bool or condition.shape not in (None, ()):
        raise Failed(f"the condition of a loop is a bool tensor without dims, got {describe(condition)}", span)


def _fit(before: tuple[Int, ...] | None, after: tuple[Int, ...] | None, sizes: Sizes) -> bool:
    """Whether two shapes may be the same."""
    if before is None or after is None:
        return True
    if len(before) != len(after):
        return False
    return all(sizes.compare("==", a, b) is not False for a, b in zip(before, after, strict=True))


def _alike(a: object, b: object) -> bool:
    return a is None or b is None or a == b


__all__ = ["PARAMETERS", "end", "macro_of", "start"]
