"""What a segment is called with: the tensors and sizes that Inductor compiles for, and that calls are held against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import sympy
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StrictMinMaxConstraint
from torch.utils._sympy.value_ranges import ValueRanges

from engine.sizes import Int, normal

# PyTorch takes every size that may change to be this or more.
LEAST = 2
# For what has no bounds, as the size of `nonzero`.
_USUAL, _LARGEST = 64, 1 << 62


class SizeRange(NamedTuple):
    """The sizes that a symbol stands for: the smallest, one to compile with, and the largest."""

    min: int
    example: int
    max: int


@dataclass(frozen=True, slots=True)
class TensorInput:
    """A tensor that a segment takes; sizes and strides are over the symbols of the model's sizes."""

    shape: tuple[Int, ...]
    strides: tuple[Int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, value: torch.Tensor, *, contiguous: bool = False) -> TensorInput:
        """The input that a fake tensor describes.

        Args:
            contiguous: it lies in memory in order, as the outputs of engines do, whatever the fake tensor says.
        """
        shape = tuple(map(normal, value.shape))
        strides = contiguous_strides(shape) if contiguous else tuple(map(normal, value.stride()))
        return cls(shape, strides, value.dtype, value.device)


def contiguous_strides(shape: Sequence[Int]) -> tuple[Int, ...]:
    """The strides of a tensor without gaps, its last dim first; sizes of 0 count as 1."""
    strides: list[Int] = []
    step: Int = 1
    for size in reversed(shape):
        strides.append(step)
        step = normal(step * (max(size, 1) if isinstance(size, int) else size))
    return tuple(reversed(strides))


@dataclass(frozen=True)
class Sizes:
    """The inputs of a segment, and the ranges of the symbols in them.

    Attributes:
        inputs: tensors, and sizes that are inputs by themselves.
        ranges: symbol -> the sizes of calls.  Sizes below 2 are not compiled for.
    """

    inputs: tuple[TensorInput | Int, ...]
    ranges: Mapping[sympy.Symbol, SizeRange] = field(default_factory=dict)

    @classmethod
    def of(cls, inputs: Iterable[TensorInput | Int], ranges: Mapping[sympy.Symbol, Any]) -> Sizes:
        """Sizes whose every symbol is the size of a dim by itself, so that a call tells what it is.

        An expression whose symbols no dim tells becomes a symbol of its own.

        Args:
            ranges: symbol -> (min, opt, max) of the model; those that are missing (of sizes that the data decides) have
                no bounds.
        """
        given = tuple(inputs)
        told = {size for size in _sizes(given) if isinstance(size, sympy.Symbol)}
        ranges = {s: _usable(*ranges[s]) if s in ranges else SizeRange(0, _USUAL, _LARGEST) for s in _symbols(given)}
        own: dict[sympy.Expr, sympy.Symbol] = {}
        for size in _sizes(given):
            if isinstance(size, sympy.Expr) and not size.free_symbols <= told and size not in own:
                own[size] = sympy.Symbol(f"own{len(own)}", integer=True, nonnegative=True)
        for expression, symbol in own.items():
            least, example, most = (
                int(expression.xreplace({s: sympy.Integer(ranges[s][i]) for s in expression.free_symbols}))
                for i in range(3)
            )
            ranges[symbol] = _usable(min(least, most), example, max(least, most))

        def renamed(size: Int) -> Int:
            return own.get(size, size) if isinstance(size, sympy.Expr) else size

        made = tuple(
            replace(item, shape=tuple(map(renamed, item.shape)), strides=_strides(item, renamed))
            if isinstance(item, TensorInput)
            else renamed(item)
            for item in given
        )
        used = _symbols(made)
        return cls(made, {symbol: ranges[symbol] for symbol in sorted(used, key=str)})

    def on(self, home: str, device: torch.device) -> Sizes:
        """The same where what was on devices of the kind ``home`` is on another device."""
        return Sizes(
            tuple(
                replace(item, device=device) if isinstance(item, TensorInput) and item.device.type == home else item
                for item in self.inputs
            ),
            self.ranges,
        )

    @property
    def symbols(self) -> set[sympy.Symbol]:
        """The symbols of the inputs."""
        return _symbols(self.inputs)

    @property
    def kind(self) -> str:
        """The kind of device that the code runs on."""
        return "cuda" if any(device.type == "cuda" for device in self.devices) else "cpu"

    @property
    def devices(self) -> frozenset[torch.device]:
        """The devices of the tensors."""
        return frozenset(item.device for item in self.inputs if isinstance(item, TensorInput))

    def fake(self) -> FakeInputs:
        """Inputs without memory, in an environment of their own."""
        # Loads Dynamo, which files without compiled segments do not need.
        from torch._dynamo.source import ConstantSource

        env = ShapeEnv(duck_shape=False)
        mode = FakeTensorMode(shape_env=env, allow_non_fake_inputs=True)
        symbols: dict[sympy.Symbol, sympy.Symbol] = {}
        for symbol, allowed in self.ranges.items():
            bounds = StrictMinMaxConstraint(vr=ValueRanges(max(LEAST, allowed.min), allowed.max), warn_only=False)
            symbols[symbol] = env.create_symbol(
                allowed.example,
                ConstantSource(str(symbol)),
                dynamic_dim=DimDynamic.DYNAMIC,
                constraint_dim=bounds,
            )
        examples = {symbols[symbol]: sympy.Integer(allowed.example) for symbol, allowed in self.ranges.items()}

        def made(size: Int) -> Any:
            if isinstance(size, int):
                return size
            expression = size.xreplace(symbols)
            return env.create_symintnode(expression, hint=int(expression.xreplace(examples)), source=None)

        values: list[Any] = []
        for item in self.inputs:
            if isinstance(item, TensorInput):
                shape, strides = (tuple(map(made, sizes)) for sizes in (item.shape, item.strides))
                with mode:
                    values.append(torch.empty_strided(shape, strides, dtype=item.dtype, device=item.device))
            else:
                values.append(made(item))
        return FakeInputs(values, mode, env, symbols)

    def values(self, arguments: Sequence[Any]) -> dict[sympy.Symbol, int] | None:
        """The sizes of a call by symbol; None where the code is not compiled for them."""
        found: dict[sympy.Symbol, int] = {}
        sizes: list[tuple[Int, int]] = []
        for item, argument in zip(self.inputs, arguments, strict=True):
            if isinstance(item, TensorInput):
                if argument.dim() != len(item.shape) or argument.dtype != item.dtype:
                    return None
                sizes += zip(item.shape, argument.shape, strict=True)
            else:
                sizes.append((item, int(argument)))
        for size, actual in sizes:
            if isinstance(size, sympy.Symbol):
                found[size] = actual
        for size, actual in sizes:
            if not isinstance(size, sympy.Symbol) and evaluated(size, found) != actual:
                return None
        for symbol, actual in found.items():
            allowed = self.ranges[symbol]
            if not max(LEAST, allowed.min) <= actual <= allowed.max:
                return None
        return found


@dataclass(frozen=True)
class FakeInputs:
    """Fake inputs and what they belong to; ``symbols`` of the model -> those of the environment."""

    values: list[Any]
    mode: FakeTensorMode
    env: ShapeEnv
    symbols: dict[sympy.Symbol, sympy.Symbol]


def evaluated(size: Int, values: Mapping[sympy.Symbol, int]) -> int:
    """A size of a call."""
    return size if isinstance(size, int) else int(size.xreplace({s: sympy.Integer(v) for s, v in values.items()}))


def _usable(least: int, example: int, most: int) -> SizeRange:
    return SizeRange(least, min(max(example, LEAST), max(most, LEAST)), most)


def _strides(item: TensorInput, renamed: Any) -> tuple[Int, ...]:
    shape = tuple(map(renamed, item.shape))
    return contiguous_strides(shape) if shape != item.shape else item.strides


def _sizes(inputs: Iterable[TensorInput | Int]) -> list[Int]:
    found: list[Int] = []
    for item in inputs:
        found += item.shape if isinstance(item, TensorInput) else (item,)
    return found


def _symbols(inputs: Iterable[TensorInput | Int]) -> set[sympy.Symbol]:
    found: set[Any] = set()
    for item in inputs:
        for size in (*item.shape, *item.strides) if isinstance(item, TensorInput) else (item,):
            if isinstance(size, sympy.Expr):
                found |= size.free_symbols
    return found


__all__ = ["LEAST", "FakeInputs", "SizeRange", "Sizes", "TensorInput", "contiguous_strides", "evaluated"]
