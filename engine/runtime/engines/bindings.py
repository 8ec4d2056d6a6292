"""The inputs and outputs of a loaded engine, and the check of input shapes against its profiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from engine.errors import InputError, RuntimeUnavailable
from engine.runtime.engines.dtypes import torch_dtype
from engine.tensorrt import load

Shape: TypeAlias = tuple[int, ...]
Bounds: TypeAlias = "tuple[Shape, Shape, Shape]"
"""Smallest, optimal and largest shape (or values) of one profile."""


@dataclass(frozen=True)
class Binding:
    """An input or output tensor of an engine.

    Attributes:
        shape: -1 for dims that are known only at run time.
        host: the tensor lives in host memory (TensorRT reads its values to compute shapes).
        shapes: of an input, its bounds in each profile.
        values: of a host input, the bounds of its values in each profile; empty where not set.
    """

    name: str
    dtype: torch.dtype
    shape: Shape
    host: bool
    shapes: tuple[Bounds, ...] = ()
    values: tuple[Bounds | tuple[()], ...] = ()

    @property
    def dynamic(self) -> bool:
        """Whether its shape differs between calls."""
        return -1 in self.shape


def binding_names(engine: Any) -> tuple[list[str], list[str]]:
    """The input and the output names of a ``trt.ICudaEngine``, in its own order."""
    trt = load()
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    return inputs, [name for name in names if name not in inputs]


def read_bindings(engine: Any, inputs: Sequence[str], outputs: Sequence[str]) -> tuple[list[Binding], list[Binding]]:
    """The bindings of a ``trt.ICudaEngine``, in the order of the given names.

    Raises:
        RuntimeUnavailable: the names are not those of the engine's inputs and outputs.
    """
    for what, given, own in zip(("input", "output"), (inputs, outputs), binding_names(engine), strict=True):
        if sorted(given) != sorted(own):
            raise RuntimeUnavailable(
                f"the {what} binding names given are {list(given)}, the engine's {what}s are {own}: "
                "pass the names that the network was built with"
            )
    return [_input(engine, name) for name in inputs], [_binding(engine, name) for name in outputs]


def _binding(engine: Any, name: str, **more: Any) -> Binding:
    return Binding(
        name,
        torch_dtype(engine.get_tensor_dtype(name), name),
        tuple(engine.get_tensor_shape(name)),
        engine.get_tensor_location(name) == load().TensorLocation.HOST,
        **more,
    )


def _input(engine: Any, name: str) -> Binding:
    shape = tuple(engine.get_tensor_shape(name))
    shapes: list[Bounds] = []
    values: list[Bounds | tuple[()]] = []
    host = engine.get_tensor_location(name) == load().TensorLocation.HOST
    for profile in range(max(1, engine.num_optimization_profiles)):
        if -1 in shape:
            low, best, high = engine.get_tensor_profile_shape(name, profile)
            shapes.append((tuple(low), tuple(best), tuple(high)))
        else:
            shapes.append((shape, shape, shape))
        bounds = engine.get_tensor_profile_values(profile, name) if host else ()
        values.append(tuple(map(tuple, bounds)) if len(bounds) == 3 else ())  # type: ignore[arg-type]
    return _binding(engine, name, shapes=tuple(shapes), values=tuple(values))


def choose_profile(inputs: Sequence[Binding], shapes: Sequence[Shape], values: Sequence[Shape | None]) -> int:
    """The profile to run inputs of given shapes with: of those that allow them, the nearest one.

    Nearest is the one whose optimal shapes differ least, summed over the logarithms of all sizes.

    Args:
        inputs: the engine's inputs.
        shapes: a shape per input.
        values: a host input's values; None for the other inputs.

    Raises:
        InputError: no profile allows them; it names the binding, the dim and the allowed range.
    """
    profiles = range(max((len(binding.shapes) for binding in inputs), default=1))
    problems = [_problem(inputs, shapes, values, profile) for profile in profiles]
    fitting = [profile for profile in profiles if problems[profile] is None]
    if not fitting:
        if len(problems) == 1:
            raise InputError(str(problems[0]))
        lines = [f"\n  profile {profile}: {problem}" for profile, problem in enumerate(problems)]
        raise InputError("no optimization profile allows the inputs:" + "".join(lines))
    return min(fitting, key=lambda profile: _distance(inputs, shapes, profile))


def _problem(
    inputs: Sequence[Binding], shapes: Sequence[Shape], values: Sequence[Shape | None], profile: int
) -> str | None:
    for binding, shape, value in zip(inputs, shapes, values, strict=True):
        if len(shape) != len(binding.shape):
            return (
                f"input {binding.name!r} has shape {list(shape)}, of rank {len(shape)}: "
                f"the engine takes rank {len(binding.shape)}, {list(binding.shape)}"
            )
        low, _, high = binding.shapes[profile]
        for axis, size in enumerate(shape):
            if not low[axis] <= size <= high[axis]:
                return f"input {binding.name!r} has size {size} in dim {axis}: {_allowed(low[axis], high[axis])}"
        bounds = binding.values[profile]
        if value is None or not bounds:
            continue
        for index, number in enumerate(value):
            if not bounds[0][index] <= number <= bounds[2][index]:
                return (
                    f"input {binding.name!r} has the value {number} at index {index}: "
                    f"{_allowed(bounds[0][index], bounds[2][index])}"
                )
    return None


def _allowed(low: int, high: int) -> str:
    return f"the engine takes {low}" if low == high else f"the engine takes {low} to {high}"


def _distance(inputs: Sequence[Binding], shapes: Sequence[Shape], profile: int) -> float:
    return sum(
        abs(math.log((size + 1) / (best + 1)))
        for binding, shape in zip(inputs, shapes, strict=True)
        for size, best in zip(shape, binding.shapes[profile][1], strict=True)
    )
