"""A call of one op whose operands have dynamic sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree

# Of each dim the least size, two between, and the largest; engines are optimised for the middle one.
SIZES = {"b": (1, 2, 3, 5, 6), "t": (4, 6, 7, 9, 12)}
USUAL = 2
MODES = {"batch": ("b",), "interior": ("t",), "both": ("b", "t")}


@dataclass(frozen=True)
class Operand:
    """An input: its dtype, its shape with ``b`` and ``t`` for dynamic sizes, and how its values are drawn."""

    shape: tuple[int | str, ...]
    draw: Callable[[Sequence[int]], torch.Tensor]

    @classmethod
    def of(cls, text: str) -> Operand:
        """An operand from ``"b 3 t"``: normal numbers; before a colon stands what else to draw.

        ``p`` numbers from 0.5 on, ``u`` from -0.9 to 0.9, ``m`` bools, ``i5`` int64 from 0 to 4, ``d`` numbers that
        are all different.
        """
        kind, colon, dims = text.rpartition(":")
        shape = tuple(int(size) if size.isdigit() else size for size in (dims if colon else text).split())
        return cls(shape, _DRAWS[kind[:1]](kind[1:]))

    def sized(self, sizes: Mapping[str, int]) -> torch.Tensor:
        """A tensor at some sizes."""
        return self.draw([size if isinstance(size, int) else sizes[size] for size in self.shape])


_DRAWS: dict[str, Callable[[str], Callable[[Sequence[int]], torch.Tensor]]] = {
    "": lambda _: torch.randn,
    "p": lambda _: lambda shape: torch.rand(shape) + 0.5,
    "u": lambda _: lambda shape: torch.rand(shape) * 1.8 - 0.9,
    "m": lambda _: lambda shape: torch.rand(shape) > 0.4,
    "i": lambda high: lambda shape: torch.randint(0, int(high), shape),
    "d": lambda _: lambda shape: torch.randperm(torch.Size(shape).numel()).reshape(shape) * 0.25 - 3,
}


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        ops: the overloads that it is to reach, as the graph that torch.export gives names them.
        fixed: mode -> why PyTorch fixes a size of it there, or cannot export it.
        outside: part of the reason for which a node of it stays in PyTorch.
        unwritten: only shapes are compared: nobody wrote the values.
        loose: its sizes have symbols of their own, of which nobody says that they are equal.
    """

    ops: tuple[str, ...]
    function: Callable[..., Any]
    operands: tuple[Operand, ...]
    fixed: Mapping[str, str] = field(default_factory=dict)
    outside: str = ""
    unwritten: bool = False
    loose: bool = False

    def tensors(self, sizes: Mapping[str, int]) -> list[torch.Tensor]:
        """The operands at some sizes."""
        return [operand.sized(sizes) for operand in self.operands]


def case(
    ops: str,
    function: Callable[..., Any],
    *operands: str,
    fixed: str | Mapping[str, str] | None = None,
    outside: str = "",
    unwritten: bool = False,
    loose: bool = False,
) -> Case:
    """A case from its ops and operands as text; ``fixed`` as text is of the mode ``interior``, and so of ``both``."""
    if isinstance(fixed, str):
        fixed = {"interior": fixed, "both": fixed}
    return Case(tuple(ops.split()), function, tuple(map(Operand.of, operands)), fixed or {}, outside, unwritten, loose)


class Calls(nn.Module):
    """Several cases side by side: one export and one engine for all of them."""

    def __init__(self, cases: Sequence[Case]) -> None:
        super().__init__()
        self.cases = cases

    def tensors(self, sizes: Mapping[str, int]) -> list[torch.Tensor]:
        """The operands of all cases at some sizes."""
        return [tensor for each in self.cases for tensor in each.tensors(sizes)]

    def dims(self, mode: str) -> tuple[dict[int, Any] | None, ...]:
        """The dynamic dims of all operands."""
        ends = {name: {"min": SIZES[name][0], "max": SIZES[name][-1]} for name in MODES[mode]}
        shared = {name: Dim(name, **ends[name]) for name in ends}
        own = {name: Dim.DYNAMIC(**ends[name]) for name in ends}
        return tuple(
            {dim: (own if each.loose else shared)[size] for dim, size in enumerate(operand.shape) if size in ends}
            or None
            for each in self.cases
            for operand in each.operands
        )

    def forward(self, *tensors: torch.Tensor) -> tuple[list[Any], ...]:
        """The leaves of each result."""
        rest = iter(tensors)
        return tuple(pytree.tree_leaves(each.function(*(next(rest) for _ in each.operands))) for each in self.cases)


def points(mode: str) -> list[dict[str, int]]:
    """The sizes that an engine of a mode is run with."""
    return [
        {name: values[index if name in MODES[mode] else USUAL] for name, values in SIZES.items()}
        for index in range(len(SIZES["b"]))
    ]


__all__ = ["MODES", "Calls", "Case", "case", "points"]
