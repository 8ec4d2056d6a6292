"""Models that branch on the values of tensors, in a file that pytest leaves as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Overflow(nn.Module):
    """Guards against overflow as encoders of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
            if hidden.dtype == torch.float16 and not torch.isfinite(hidden).all():
                limit = torch.finfo(hidden.dtype).max - 1000
                hidden = torch.clamp(hidden, min=-limit, max=limit)
        return hidden


class Sides(nn.Module):
    """Two sides, both of which give something; a condition of several parts; a choice in an expression."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0 or (x.isnan().any() and x.shape[-1] > 1):
            y, z = x + 1, x
            x = x * 3
        else:
            y = z = x - 1
        if bool((z > 0).any()):
            y = y + z
        return y + x if (x > 0).all() else y * 2


class Sided(nn.Module):
    """The same without a pair of names on the left."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0 or (x.isnan().any() and x.shape[-1] > 1):
            y = x + 1
            x = x * 3
        else:
            y = x - 1
        if bool((y > 0).any()):
            z: torch.Tensor = x
            y = y + z
        return y + x if (x > 0).all() else y * 2


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Returned(Scaled):
    """Returns in both sides, a call of the class above and a private name."""

    __factor = 3.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        if torch.any(x > 1):
            return x * self.__factor
        return x


def closed(factor: float) -> nn.Module:
    """A module whose code reads a name of the function around it."""

    class Closed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(3):
                if x.max() < 4:
                    x = x * factor
            return x

    return Closed()


class Refused(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def in_place(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    if x.max() > 0:
        y.mul_(2)
    return y


def written_in_place(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    if x.max() > 0:
        z = y.add_(1)
    else:
        z = y
    return z + y


def with_a_loop(x: torch.Tensor) -> torch.Tensor:
    while x.max() < 9:
        x = x + 1
    return x


def other_shapes(x: torch.Tensor) -> torch.Tensor:
    return x[0] if x.max() > 0 else x


def other_dtypes(x: torch.Tensor) -> torch.Tensor:
    y = x
    if x.max() > 0:
        y = x.double()
    return y


def numbers(x: torch.Tensor) -> torch.Tensor:
    return x * (2 if x.max() > 0 else 3)
