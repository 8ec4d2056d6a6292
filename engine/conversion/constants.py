"""Constants that rules write out: ``scalar(1.0, f32)``, ``tensor([n, 2], i64)``, ``filled(0, shape, i64)``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sympy
import torch

from engine.conversion.dtypes import tensorrt_dtype
from engine.conversion.scope import NetworkScope
from engine.conversion.shapes import ShapeTensors
from engine.errors import ConversionError
from engine.evaluator.plan import ConstantTensor
from engine.sizes import is_known

# Larger constants of one number are repeated by a slice instead of being stored in the engine.
_STORED_ELEMENTS = 1024


class WrittenConstants:
    """Makes network tensors of :class:`ConstantTensor`; equal ones are made once."""

    def __init__(self, scope: NetworkScope, shapes: ShapeTensors) -> None:
        self._scope = scope
        self._shapes = shapes
        self._tensors: dict[Any, Any] = {}
        self._host: dict[Any, torch.Tensor] = {}

    @contextmanager
    def inside(self) -> Iterator[None]:
        """While the subgraph of an op is replayed: what is made meanwhile may depend on its sizes, and is forgotten."""
        kept = dict(self._tensors)
        try:
            yield
        finally:
            self._tensors = kept

    @staticmethod
    def _key(constant: ConstantTensor) -> Any:
        # repr tells 1, 1.0 and True apart, and -0.0 from 0.0.
        return constant.shape, constant.dtype, repr(constant.number), repr(constant.numbers)

    def host(self, constant: ConstantTensor) -> torch.Tensor:
        """The constant in host memory, for use as weights.

        Raises:
            ConversionError: its shape or a number in it is only known when the engine runs.
        """
        if not is_known((constant.shape or (), constant.numbers or (), constant.number)):
            raise ConversionError("weights must be known when the network is built")
        key = self._key(constant)
        held = self._host.get(key)
        if held is None:
            held = self._host[key] = _host(constant)
        return held

    def tensor(self, constant: ConstantTensor) -> Any:
        """The constant as a network tensor; sizes in it may be run-time sizes."""
        key = self._key(constant)
        made = self._tensors.get(key)
        if made is None:
            made = self._tensors[key] = self._make(constant)
        return made

    def _make(self, constant: ConstantTensor) -> Any:
        shape, dtype = constant.shape, constant.dtype
        if shape is None or dtype is None:
            raise ConversionError("a constant written out by a rule needs a shape and a dtype")
        if constant.numbers is not None:
            return self._listed(constant.numbers, dtype)
        if is_known((shape, constant.number)) and math.prod(map(int, shape)) <= _STORED_ELEMENTS:
            return self._scope.constant(self.host(constant), f"{constant.number}{list(shape)}")
        return self._repeated(constant)

    def _listed(self, numbers: tuple[Any, ...], dtype: torch.dtype) -> Any:
        if is_known(numbers):
            return self._scope.numbers(list(numbers), dtype)
        if all(isinstance(number, int | sympy.Expr) for number in numbers):
            return self._scope.cast(self._shapes.vector(numbers), dtype, "sizes/vector/cast")
        pieces = [self._element(number, dtype) for number in numbers]
        return self._scope.add("add_concatenation", (pieces,), "sizes/vector").get_output(0)

    def _element(self, number: Any, dtype: torch.dtype) -> Any:
        """One number, possibly a run-time size, as a 1-d tensor."""
        if is_known(number):
            return self._scope.numbers([number], dtype)
        return self._scope.cast(self._shapes.piece(number), dtype, f"sizes/{number}/cast")

    def _repeated(self, constant: ConstantTensor) -> Any:
        """One number read again and again by a slice of stride 0."""
        shape, dtype = constant.shape or (), constant.dtype or torch.float32
        rank, name = len(shape), f"constants/{constant.number}[{', '.join(map(str, shape))}]"
        element = self._element(constant.number, dtype)
        if rank != 1:
            element = self._scope.reshaped(element, (1,) * rank, f"{name}/element")
        if any(size != 1 for size in shape):
            zeros = (0,) * rank
            runtime = None if is_known(shape) else self._shapes.vector(shape)

            def finish(layer: Any) -> None:
                if runtime is not None:
                    layer.set_input(2, runtime)

            arguments = (element, zeros, zeros if runtime is not None else tuple(shape), zeros)
            element = self._scope.add("add_slice", arguments, name, then=finish).get_output(0)
        return element


def _host(constant: ConstantTensor) -> torch.Tensor:
    assert constant.dtype is not None
    tensorrt_dtype(constant.dtype)
    if constant.numbers is not None:
        return torch.tensor(constant.numbers, dtype=constant.dtype)
    number: Any = constant.number
    # PyTorch cannot fill float8 tensors.
    narrow = constant.dtype.is_floating_point and constant.dtype.itemsize == 1
    filled = torch.full(constant.shape or (), number, dtype=torch.float32 if narrow else constant.dtype)
    return filled.to(constant.dtype)


__all__ = ["WrittenConstants"]
