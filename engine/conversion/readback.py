"""Reading back what was set on a layer: TensorRT's setters ignore some values, and log that or say nothing."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Any

from engine.conversion.call_log import Said
from engine.tensorrt import load


def lost(layer: Any, said: Iterable[Said]) -> str | None:
    """What was set on a layer and not kept by it, in a sentence; None where it kept everything.

    A layer holds floats in float32 and permutations as eight numbers.  Weights are not compared: they read back as
    copies.  Calls of other methods than ``set_input`` cannot be read back.

    Raises:
        RuntimeError: a property cannot be read, because it has no value.
    """
    told = {(item.name, item.value[0]) if item.call else item.name: item for item in said}
    for item in told.values():
        if not item.call:
            kept = getattr(layer, item.name)
            if not same(item.value, kept):
                return f"{type(layer).__name__} did not keep {item.name}={show(item.value)}: it has {show(kept)}"
        elif item.name == "set_input":
            index, tensor = item.value
            if layer.get_input(index) is not tensor:
                return f"{type(layer).__name__} did not keep the tensor {show(tensor)} as its input {index}"
    return None


def same(told: Any, kept: Any) -> bool:
    """Whether a property that was set to ``told`` reads ``kept``."""
    trt = load()
    if isinstance(told, trt.Weights):
        return True
    if isinstance(kept, trt.Permutation):
        # It has as many numbers as a tensor may have dims, whatever it was given.
        kept = tuple(kept)[: len(told)]
    if isinstance(told, list | tuple | trt.Dims):
        if kept is None or len(told) != len(kept):
            return False
        return all(map(same, told, kept))
    if isinstance(told, float) or isinstance(kept, float):
        return kept is not None and _single(told) == _single(kept)
    return bool(told == kept)


def _single(number: float) -> bytes | float:
    """A number in float32; its bytes, by which a NaN is itself and -0 is not 0."""
    try:
        return struct.pack("f", number)
    except OverflowError:
        return math.copysign(math.inf, number)


def show(value: Any) -> str:
    """A value for a message."""
    trt = load()
    if isinstance(value, trt.ITensor):
        return value.name or "without a name"
    if isinstance(value, list | tuple | trt.Dims | trt.Permutation):
        return f"[{', '.join(map(show, value))}]"
    return str(value)


__all__ = ["lost", "same", "show"]
