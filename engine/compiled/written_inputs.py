"""Inputs of a compiled module that calls write to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from engine.errors import InputError


def check_written(inputs: Sequence[Any], names: Sequence[str], written: Sequence[int]) -> None:
    """Check that what is written to has a memory of its own.

    Raises:
        InputError: one shares it with another input, or with itself (an expanded tensor), or PyTorch allows no writes
            to it.
    """
    places = [value.data_ptr() if isinstance(value, torch.Tensor) else 0 for value in inputs]
    shared = len({*places, 0}) <= sum(map(bool, places))
    for position in written:
        value = inputs[position]
        if value.requires_grad and value.is_leaf and torch.is_grad_enabled():
            raise InputError(
                f"input {names[position]!r} is written to, and gradients are wanted for it: call the module under "
                "torch.no_grad(), or pass it detached (x.detach())"
            )
        if not value.is_contiguous() and torch._debug_has_internal_overlap(value) == 1:
            raise InputError(
                f"input {names[position]!r} is written to, and several of its elements are one (it was expanded): "
                "pass a tensor of its own (x.contiguous())"
            )
        if shared and places[position] and places.count(places[position]) > 1:
            place = places[position]
            other = next(i for i, found in enumerate(places) if found == place and i != position)
            raise InputError(
                f"inputs {names[position]!r} and {names[other]!r} share their memory, and the model writes to "
                f"{names[position]!r}: pass tensors of their own"
            )


__all__ = ["check_written"]
