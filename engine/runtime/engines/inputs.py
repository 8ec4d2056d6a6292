"""The inputs of a call, brought into a form that TensorRT can read."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from engine.errors import InputError
from engine.runtime.engines.bindings import Binding, Shape
from engine.runtime.engines.limits import ALIGNMENT

Input: TypeAlias = "torch.Tensor | int | float | bool"

MISALIGNED = ALIGNMENT - 1
"""The bits that are 0 in an address that is aligned."""


class InputReader:
    """Checks and converts the inputs of an engine on one device.

    Args:
        inputs: the engine's inputs.
        aliases: output position -> input position that it is written to.
        device: a CUDA device.
    """

    def __init__(self, inputs: Sequence[Binding], aliases: Mapping[int, int], device: torch.device) -> None:
        self._inputs = inputs
        self._written = frozenset(aliases.values())
        self._device = device

    def read(self, inputs: Sequence[Input]) -> tuple[list[torch.Tensor], tuple[Hashable, ...], list[Shape]]:
        """Inputs as tensors that can be bound.

        Returns:
            The tensors; what calls must have in common to share a shape binding, with one entry per input (its shape;
            its value of a size; shape and values of another host input); the values of the host inputs.

        Raises:
            InputError: an input has the wrong kind, dtype or device.
        """
        tensors: list[torch.Tensor] = []
        key: list[Hashable] = []
        values: list[Shape] = []
        for position, (binding, value) in enumerate(zip(self._inputs, inputs, strict=True)):
            if not isinstance(value, torch.Tensor):
                value = self._from_number(binding, value)
            if value.dtype != binding.dtype:
                raise InputError(f"input {binding.name!r} is {value.dtype}, the engine takes {binding.dtype}")
            if binding.host:
                # TensorRT computes shapes from it on the host: a GPU tensor has to be waited for.
                value = value.detach().cpu().contiguous()
                numbers = tuple(value.reshape(-1).tolist())
                values.append(numbers)
                key.append(numbers[0] if len(numbers) == 1 else (value.shape, numbers))
            else:
                value = self._on_device(position, binding, value.detach())
                key.append(value.shape)
            tensors.append(value)
        return tensors, tuple(key), values

    def _from_number(self, binding: Binding, value: Any) -> torch.Tensor:
        if not isinstance(value, int | float):
            raise InputError(f"input {binding.name!r} is a {type(value).__name__}, the engine takes a tensor")
        shape = tuple(1 if size == -1 else size for size in binding.shape)
        if math.prod(shape) != 1:
            raise InputError(f"input {binding.name!r} is a number, the engine takes shape {list(binding.shape)}")
        if isinstance(value, float) and not binding.dtype.is_floating_point:
            raise InputError(f"input {binding.name!r} is a float, the engine takes {binding.dtype}")
        # Filled by a kernel, not copied: the call must not wait for the GPU.
        return torch.full(shape, value, dtype=binding.dtype, device="cpu" if binding.host else self._device)

    def _on_device(self, position: int, binding: Binding, value: torch.Tensor) -> torch.Tensor:
        if position in self._written and not self._is_bindable(value):
            raise InputError(
                f"input {binding.name!r} is written to by the engine: it has to be a contiguous tensor on "
                f"{self._device}, aligned to {ALIGNMENT} bytes"
            )
        if value.device != self._device:
            if value.ndim or value.device.type != "cpu":
                raise InputError(f"input {binding.name!r} is on {value.device}, the engine runs on {self._device}")
            # PyTorch lets a 0-d CPU tensor stand beside CUDA tensors as if it were a number.
            value = value.to(self._device, non_blocking=True)
        value = value.resolve_conj().resolve_neg().contiguous()
        return value.clone(memory_format=torch.contiguous_format) if value.data_ptr() & MISALIGNED else value

    def _is_bindable(self, value: torch.Tensor) -> bool:
        return value.device == self._device and value.is_contiguous() and not value.data_ptr() & MISALIGNED


_TENSORS = frozenset({torch.Tensor, torch.nn.Parameter})


def alike(tensors: Sequence[Any]) -> Callable[..., bool] | None:
    """A test of as many values: whether they are tensors of these types, dtypes, devices, shapes and strides.

    It may say no of tensors that are alike, where they are used in another mode of PyTorch's.  None where some of
    ``tensors`` is none.
    """
    if any(type(tensor) not in _TENSORS for tensor in tensors):
        return None
    # What guards the graphs of torch.compile: one call into C++ for all of them.
    guards = getattr(torch._C._dynamo.guards, "TensorGuards", None)
    if guards is None:
        return _alike_slowly(tensors)
    sizes, strides = [[*tensor.shape] for tensor in tensors], [[*tensor.stride()] for tensor in tensors]
    test: Callable[..., bool] = guards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides).check
    return test


def _alike_slowly(tensors: Sequence[torch.Tensor]) -> Callable[..., bool]:
    def described(value: torch.Tensor) -> tuple[Hashable, ...]:
        return type(value), value.dtype, value.device, value.shape, value.stride()

    expected = [described(tensor) for tensor in tensors]

    def test(*values: Any) -> bool:
        return all(type(value) in _TENSORS for value in values) and [*map(described, values)] == expected

    return test


__all__ = ["MISALIGNED", "Input", "InputReader", "alike"]
