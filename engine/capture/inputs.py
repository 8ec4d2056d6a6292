"""Inputs described by shapes and ranges instead of by example tensors, and optimization profiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sympy
import torch

from engine.errors import InputError
from engine.sizes import Int


class Range(NamedTuple):
    """The sizes that a dim may take, and the one to optimise for; ``min <= opt <= max``."""

    min: int
    opt: int
    max: int

    def __str__(self) -> str:
        return f"{self.min}..{self.max}"


@dataclass(frozen=True, init=False)
class Input:
    """One tensor input, by shape: static, or with a smallest, a usual and a largest shape.

    ``Input((1, 3, 224, 224))`` is static.  ``Input(min_shape=(1, 3, 224, 224), opt_shape=(8, 3, 224,
    224), max_shape=(32, 3, 224, 224))`` has a dynamic dim 0: dims whose ``min`` and ``max`` differ are
    dynamic, ``opt`` may equal either end.  ``name`` passes it as that keyword argument; ``format`` is
    the memory format of the tensors that will come.

    ``profiles`` takes several such ranges instead, each a dict of ``min_shape``, ``opt_shape`` and
    ``max_shape``: TensorRT then optimises for each of them, and a call runs with the one that is nearest
    to its shapes.  Of several inputs, profiles with the same index belong together.
    """

    min_shape: tuple[int, ...]
    opt_shape: tuple[int, ...]
    max_shape: tuple[int, ...]
    dtype: torch.dtype
    name: str | None
    format: torch.memory_format
    profiles: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...]

    def __init__(
        self,
        shape: Sequence[int] | None = None,
        *,
        min_shape: Sequence[int] | None = None,
        opt_shape: Sequence[int] | None = None,
        max_shape: Sequence[int] | None = None,
        profiles: Sequence[Mapping[str, Sequence[int]]] | None = None,
        dtype: torch.dtype = torch.float32,
        name: str | None = None,
        format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        label = f"Input {name!r}" if name else "Input"
        ranged = {"min_shape": min_shape, "opt_shape": opt_shape, "max_shape": max_shape}
        if shape is not None:
            if any(value is not None for value in ranged.values()):
                raise InputError(f"{label}: give either shape, or min_shape, opt_shape and max_shape")
            ranged = dict.fromkeys(ranged, shape)
        found: tuple[Any, ...] = ()
        if profiles is not None:
            if any(value is not None for value in ranged.values()):
                raise InputError(f"{label}: give either profiles, or shapes")
            found = _profiles(label, profiles)
            lows, opts, highs = zip(*found, strict=True)
            whole = (tuple(map(min, *lows, lows[0])), opts[0], tuple(map(max, *highs, highs[0])))
            ranged = dict(zip(ranged, whole, strict=True))
        missing = [key for key, value in ranged.items() if value is None]
        if missing:
            raise InputError(f"{label}: {' and '.join(missing)} missing; give shape for a static input")
        if not isinstance(dtype, torch.dtype):
            raise InputError(f"{label}: dtype is a torch.dtype, not {dtype!r}")
        if format not in (torch.contiguous_format, torch.channels_last, torch.channels_last_3d):
            raise InputError(f"{label}: format {format} is not one that an input can have")
        for key, value in ranged.items():
            object.__setattr__(self, key, _shape(label, key, value))
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "format", format)
        object.__setattr__(self, "profiles", found)
        self._check(label)

    def _check(self, label: str) -> None:
        shapes = (self.min_shape, self.opt_shape, self.max_shape)
        if len({len(shape) for shape in shapes}) > 1:
            raise InputError(f"{label}: min_shape, opt_shape and max_shape differ in rank: {shapes}")
        for dim, (least, usual, most) in enumerate(zip(*shapes, strict=True)):
            if not least <= usual <= most:
                raise InputError(
                    f"{label}: dim {dim} has min {least}, opt {usual}, max {most}; it must be min <= opt <= max"
                )
        ranks = {torch.channels_last: 4, torch.channels_last_3d: 5}
        if ranks.get(self.format, len(self.opt_shape)) != len(self.opt_shape):
            raise InputError(f"{label}: format {self.format} needs rank {ranks[self.format]}")

    @property
    def shape(self) -> tuple[int | str, ...]:
        """The sizes, a dynamic one as ``"min..max"``."""
        return tuple(
            low if low == high else f"{low}..{high}" for low, high in zip(self.min_shape, self.max_shape, strict=True)
        )

    @property
    def dynamic_dims(self) -> dict[int, Range]:
        """The dims whose size may change, with their ranges."""
        ranges = map(Range, self.min_shape, self.opt_shape, self.max_shape)
        return {dim: r for dim, r in enumerate(ranges) if r.min != r.max}

    def example(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """A tensor of this description, for tracing.

        Its shape is ``opt_shape``, but a dynamic dim never has size 1 (nor 0), where torch.export would
        take it for a constant.  Integers are ones: a valid index of nearly everything.

        Raises:
            InputError: PyTorch cannot make a tensor so large.
        """
        shape = [size if size >= 2 or dim not in self.dynamic_dims else 2 for dim, size in enumerate(self.opt_shape)]
        try:
            if self.dtype.is_floating_point or self.dtype.is_complex:
                generator = torch.Generator().manual_seed(0)
                kind = torch.complex64 if self.dtype.is_complex else torch.float32
                tensor = torch.randn(shape, generator=generator, dtype=kind)
            else:
                tensor = torch.ones(shape)
            return tensor.to(device, self.dtype).contiguous(memory_format=self.format)
        except (MemoryError, OverflowError, RuntimeError, TypeError) as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{self.name or 'Input'}: no example of {shape} can be made to trace with: {said}"
            ) from error


def _profiles(label: str, profiles: object) -> tuple[Any, ...]:
    keys = ("min_shape", "opt_shape", "max_shape")
    if not isinstance(profiles, Sequence) or not profiles:
        raise InputError(f"{label}: profiles is a list of dicts with {', '.join(keys)}, not {profiles!r}")
    found = []
    for index, profile in enumerate(profiles):
        if not isinstance(profile, Mapping) or set(profile) != set(keys):
            raise InputError(f"{label}: profile {index} is a dict with {', '.join(keys)}, not {profile!r}")
        one = Input(**profile)
        found.append((one.min_shape, one.opt_shape, one.max_shape))
    if len({len(low) for low, _, _ in found}) > 1:
        raise InputError(f"{label}: the profiles differ in rank")
    return tuple(found)


def _shape(label: str, key: str, value: object) -> tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value,)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InputError(f"{label}: {key} is a list of sizes, not {value!r}")
    for size in value:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InputError(f"{label}: {key} has a size {size!r}; sizes are whole numbers, 0 or more")
    return tuple(value)


def unbounded(opt: int) -> int:
    """The largest size to prepare for where neither the user nor the model gives one.

    Twice the size of the example, rounded up to a power of two, at least 8: an engine must reserve
    memory for its largest shape, so a bound that nobody asked for stays near what was shown.
    """
    return max(8, 1 << max(2 * opt - 1, 1).bit_length())


@dataclass(frozen=True)
class Profile:
    """What the shapes of a captured model may be.

    ``symbols`` gives every symbol of the input shapes its range; ``inputs`` has, for each graph input,
    a range per dim (static dims: min == opt == max).  Sizes are in elements.
    """

    inputs: Mapping[str, tuple[Range, ...]]
    symbols: Mapping[sympy.Symbol, Range]

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[Int]], symbols: Mapping[sympy.Symbol, Range]) -> Profile:
        """The profile of inputs whose dims are expressions over ``symbols``."""
        return cls(
            {name: tuple(range_of(size, symbols) for size in shape) for name, shape in shapes.items()},
            dict(symbols),
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.inputs)

    def shape(self, name: str, which: str) -> tuple[int, ...]:
        """The ``"min"``, ``"opt"`` or ``"max"`` shape of an input."""
        return tuple(getattr(size, which) for size in self.inputs[name])


def range_of(size: Int, symbols: Mapping[sympy.Symbol, Range]) -> Range:
    """The range of a size.  torch.export only makes sizes that grow with their symbols."""
    if isinstance(size, int):
        return Range(size, size, size)
    at = [{s: getattr(symbols[s], which) for s in size.free_symbols} for which in Range._fields]
    low, opt, high = (int(size.subs(values)) for values in at)
    return Range(min(low, high), opt, max(low, high))
