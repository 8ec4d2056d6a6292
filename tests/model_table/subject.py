"""A model of the table, and the sizes that it is run with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import sympy
import torch
from torch import nn
from torch.export import Dim

__all__ = ["MOST_IN_BATCH", "Call", "Made", "Point", "Ranges", "Subject", "dynamic_dims", "images", "points"]

MOST_IN_BATCH = 5
# Where between both ends of a range its other sizes are taken, and the batches with them.
_FRACTIONS = ((0.13, 2), (0.37, 4), (0.5, 3), (0.71, 1), (0.93, 2))

Call = tuple[tuple[Any, ...], dict[str, Any]]
Ranges = tuple[tuple[int, int], ...]


class Point(NamedTuple):
    """A batch, and a size for each axis whose size is free."""

    batch: int
    sizes: tuple[int, ...]


class Made(NamedTuple):
    """A model, and the least and greatest size of each axis: none where the table runs one size alone."""

    model: nn.Module
    ranges: Ranges

    @property
    def usual(self) -> tuple[int, ...]:
        """The sizes that static engines are built for: the least ones."""
        return tuple(low for low, _ in self.ranges)


@dataclass(frozen=True)
class Subject:
    """A model with inputs of any size that it takes.

    Attributes:
        name: as its library calls it.
        library: distribution that it is of.
        make: the model in float32 and eval mode, with its sizes.
        call: arguments for a batch and sizes; float32.
        dynamic: ``dynamic_shapes`` for ranges and a step; None as step leaves the sizes as they are, and only the batch
            is free. None where the model has no batch.
        steps: what sizes may be multiples of; the first that the model itself takes is used.
        most: in a batch.
    """

    name: str
    library: str
    make: Callable[[], Made]
    call: Callable[[Point], Call]
    dynamic: Callable[[Ranges, int | None], Any] | None
    steps: tuple[int, ...] = (1, 8, 32)
    most: int = MOST_IN_BATCH


def points(ranges: Ranges, step: int, most: int = MOST_IN_BATCH) -> list[Point]:
    """Both ends and five points in between; sizes there are primes, or primes times ``step``.

    The axes have different sizes there, and one grows while the other becomes less.
    """
    found = [Point(1, tuple(-(-low // step) * step for low, _ in ranges))]
    for place, (fraction, batch) in enumerate(_FRACTIONS):
        sizes = []
        for axis, (low, high) in enumerate(ranges):
            here = fraction if axis % 2 == 0 else _FRACTIONS[-1 - place][0]
            sizes.append(_between(low, high, step, here))
        found.append(Point(batch, tuple(sizes)))
    found.append(Point(most, tuple(high // step * step for _, high in ranges)))
    return list(dict.fromkeys(found))


def _between(low: int, high: int, step: int, fraction: float) -> int:
    least, most = -(-low // step), high // step
    start = round(least + fraction * (most - least))
    size = next((each for each in range(start, most) if sympy.isprime(each)), start)
    return size * step


def dynamic_dims(ranges: Ranges, step: int | None, *axes: int) -> dict[int, Any]:
    """The dynamic dims of an input whose dim 0 is the batch and whose ``axes`` are those of ``ranges``.

    With None as ``step`` only the batch is free.
    """
    shape: dict[int, Any] = {0: Dim("batch", min=1, max=MOST_IN_BATCH)}
    if step is not None:
        for name, axis, (low, high) in zip(("height", "width"), axes, ranges, strict=True):
            dim = Dim(name, min=-(-low // step), max=high // step)
            shape[axis] = dim if step == 1 else step * dim
    return shape


def images(point: Point, channels: int = 3) -> torch.Tensor:
    """Pixels: f32[batch, channels, height, width]."""
    return torch.randn(point.batch, channels, *point.sizes)
