"""Frozen constants: constants of the model that a compiled model holds for good, and what they must hold."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch

from engine.graph.mirror import Mirror, Value
from engine.weights.recipe import Recipe, recipe


class FrozenConstant(NamedTuple):
    """A constant that other weights must leave as it is.

    Attributes:
        recipe: how it is computed from the constants of the model.
        digest: of its elements, see :func:`digest`.
    """

    recipe: Recipe
    digest: str


def frozen_constant(mirror: Mirror, value: Value) -> FrozenConstant | None:
    """A constant value as a frozen constant; None where it depends on no constant of the model."""
    how = recipe(mirror, value)
    return FrozenConstant(how, digest(mirror.constant(value))) if how.sources else None


def digest(tensor: torch.Tensor) -> str:
    """Equal for tensors of the same dtype, shape and bits."""
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    hashed = hashlib.blake2b(f"{tensor.dtype}{tuple(tensor.shape)}".encode(), digest_size=16)
    if flat.numel():
        hashed.update(flat.view(torch.uint8).numpy().data)
    return hashed.hexdigest()


__all__ = ["FrozenConstant", "digest", "frozen_constant"]
