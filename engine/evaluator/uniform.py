"""Constants of one number, seen through layers that only move elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from engine import sizes as symints
from engine.evaluator.plan import AbstractTensor, CallOutput, ConstantTensor, LayerCall

MOVES = frozenset({"trt.identity", "trt.shuffle", "trt.slice", "trt.squeeze", "trt.unsqueeze"})
"""Layers that make no new elements, and that TensorRT may take out."""

Elements = Callable[[AbstractTensor], "torch.Tensor | None"]
"""The contents of a constant; None of what is none, or has more elements than are looked at."""


def is_uniform(tensor: AbstractTensor, number: Any, elements: Elements) -> bool:
    """Whether every element of a tensor is known to be ``number``."""
    if isinstance(tensor, ConstantTensor) and tensor.numbers is None:
        return symints.is_known(tensor.number) and bool(tensor.number == number)
    if isinstance(tensor, CallOutput):
        return isinstance(tensor.call, LayerCall) and _comes_out(tensor.call, number, elements)
    data = elements(tensor)
    return data is not None and data.numel() > 0 and bool((data == number).all())


def _comes_out(call: LayerCall, number: Any, elements: Elements) -> bool:
    """Whether every element that a layer computes is known to be ``number``."""
    name, values = call.layer.name, call.values
    if name == "trt.unary" and values["op"].name == "NOT":
        return is_uniform(values["x"], not number, elements)
    if name == "trt.cast" and values["to_type"] == torch.bool:

        def truths(tensor: AbstractTensor) -> torch.Tensor | None:
            data = elements(tensor)
            return None if data is None else data.bool()

        source = values["x"]
        if isinstance(source, ConstantTensor) and source.numbers is None:
            return symints.is_known(source.number) and bool(source.number) == number
        return not isinstance(source, CallOutput) and is_uniform(source, number, truths)
    # A slice beyond the bounds fills in other elements.
    fills = values.get("fill") is not None or getattr(values.get("mode"), "name", None) == "FILL"
    return name in MOVES and not fills and is_uniform(values["x"], number, elements)


__all__ = ["MOVES", "Elements", "is_uniform"]
