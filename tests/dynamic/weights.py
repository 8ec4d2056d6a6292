"""Constant operands."""

from functools import cache

import torch


@cache
def weight(*shape: int) -> torch.Tensor:
    """Normal numbers, the same for the same shape; made before a case is traced, or they would be part of it."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))
