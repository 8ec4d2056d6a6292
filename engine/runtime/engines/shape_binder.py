"""Shape bindings: what TensorRT says of a call before it runs, asked once for each combination of shapes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch

from engine.runtime.engines.bindings import Binding, Shape, choose_profile
from engine.runtime.engines.context_pool import ShapeBinding
from engine.runtime.failures import ExecutionError, quoted
from engine.tensorrt.logger import Logger, error_texts


class ShapeBinder:
    """Makes the shape bindings of one engine.

    Args:
        aliases: output position -> position of the input that it is written to.
        allocate_all: TensorRT asks for the memory of every output, not only of those of unknown size.
        called: what the engine is called in messages.
    """

    def __init__(
        self,
        inputs: Sequence[Binding],
        outputs: Sequence[Binding],
        aliases: Mapping[int, int],
        *,
        allocate_all: bool,
        called: str,
        logger: Logger,
    ) -> None:
        self._inputs = inputs
        self._outputs = outputs
        self._aliases = aliases
        self._allocate_all = allocate_all
        self._called = called
        self._logger = logger

    def start(self, key: Hashable, shapes: Sequence[Shape], values: Sequence[Shape]) -> ShapeBinding:
        """A shape binding without outputs, ready to be set on a context.

        Args:
            values: of the host inputs, in order.

        Raises:
            InputError: no profile of the engine allows the shapes, or the values.
        """
        remaining = iter(values)
        by_input = [next(remaining) if binding.host else None for binding in self._inputs]
        return ShapeBinding(
            key,
            choose_profile(self._inputs, shapes, by_input),
            tuple(map(tuple, shapes)),
            [(i, _host_memory(self._inputs[i], value)) for i, value in enumerate(by_input) if value is not None],
        )

    def finish(self, bound: ShapeBinding, context: Any) -> None:
        """Fill in the outputs, as the context that it is set on knows them.

        Raises:
            ExecutionError: TensorRT rejects the combination of shapes.
        """
        with self._logger.gather() as messages:
            try:
                unset = context.infer_shapes()
            except RuntimeError as error:
                raise ExecutionError(self._refused(bound, error_texts(messages) or [str(error)])) from None
            if unset:
                raise ExecutionError(self._refused(bound, [f"{', '.join(unset)} not set", *error_texts(messages)]))
        found = [tuple(context.get_tensor_shape(binding.name)) for binding in self._outputs]
        device = [i for i, binding in enumerate(self._outputs) if not binding.host and i not in self._aliases]
        bound.allocated = [i for i in device if self._allocate_all or min(found[i], default=0) < 0]
        bound.outputs = [
            None if min(shape, default=0) < 0 else (shape, _strides(shape), binding.dtype)
            for binding, shape in zip(self._outputs, found, strict=True)
        ]
        bound.computes = any(output is None or math.prod(output[0]) for output in bound.outputs) or not self._outputs
        bound.plain = bound.computes and len(device) == len(self._outputs) and not bound.allocated

    def _refused(self, bound: ShapeBinding, messages: Sequence[str]) -> str:
        given = ", ".join(
            f"{binding.name}={list(shape)}" for binding, shape in zip(self._inputs, bound.shapes, strict=True)
        )
        return f"{self._called} does not take the shapes {given}" + quoted(messages)


def _host_memory(binding: Binding, values: Shape) -> torch.Tensor:
    # One element at least, so that there is an address.
    return torch.tensor([*values] or [0], dtype=binding.dtype)


def _strides(shape: Shape) -> Shape:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides))[: len(shape)]


__all__ = ["ShapeBinder"]
