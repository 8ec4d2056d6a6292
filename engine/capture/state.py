"""What a model keeps from call to call, and what it writes to."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class State:
    """A buffer (or parameter) of the model that its calls write to.

    Attributes:
        name: as the model has it: ``layers.0.cache``.
        placeholder: the graph's input that is its value.
        tensor: the model's own, as it was when it was captured.
        persistent: whether it is in the model's state dict.
    """

    name: str
    placeholder: str
    tensor: torch.Tensor
    persistent: bool = True


__all__ = ["State"]
