"""Shape and dtype of a tensor at the boundary of an engine."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.sizes import Int, normal


@dataclass(frozen=True)
class TensorSpec:
    """A tensor at the boundary of an engine; ``shape`` holds symbolic ints."""

    shape: tuple[Int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorSpec:
        """The spec of a fake tensor (symbolic sizes) or a real one."""
        return cls(tuple(normal(size) for size in tensor.shape), tensor.dtype)

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}[{', '.join(map(str, self.shape))}]"


__all__ = ["TensorSpec"]
