"""Bind plans: what TensorRT says of a call before it runs, asked once for each combination of shapes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch

from engine.logger import Logger, error_texts
from engine.runtime.engines.bindings import Binding, Shape, choose_profile
from engine.runtime.engines.context_pool import BindPlan
from engine.runtime.failures import ExecutionError, quoted


class Planner:
    """Makes the bind plans of one engine.

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

    def start(self, key: Hashable, shapes: Sequence[Shape], values: Sequence[Shape]) -> BindPlan:
        """A plan without outputs, ready to be bound to a context.

        Args:
            values: of the host inputs, in order.

        Raises:
            InputError: no profile of the engine allows the shapes, or the values.
        """
        remaining = iter(values)
        by_input = [next(remaining) if binding.host else None for binding in self._inputs]
        return BindPlan(
            key,
            choose_profile(self._inputs, shapes, by_input),
            tuple(map(tuple, shapes)),
            [(i, _host_memory(self._inputs[i], value)) for i, value in enumerate(by_input) if value is not None],
        )

    def finish(self, plan: BindPlan, context: Any) -> None:
        """Fill in the outputs, as the context that the plan is bound to knows them.

        Raises:
            ExecutionError: TensorRT refuses the shapes together.
        """
        with self._logger.gather() as messages:
            try:
                unset = context.infer_shapes()
            except RuntimeError as error:
                raise ExecutionError(self._refused(plan, error_texts(messages) or [str(error)])) from None
            if unset:
                raise ExecutionError(self._refused(plan, [f"{', '.join(unset)} not set", *error_texts(messages)]))
        found = [tuple(context.get_tensor_shape(binding.name)) for binding in self._outputs]
        device = [i for i, binding in enumerate(self._outputs) if not binding.host and i not in self._aliases]
        plan.allocated = [i for i in device if self._allocate_all or min(found[i], default=0) < 0]
        plan.outputs = [
            None if min(shape, default=0) < 0 else (shape, _strides(shape), binding.dtype)
            for binding, shape in zip(self._outputs, found, strict=True)
        ]
        plan.computes = any(output is None or math.prod(output[0]) for output in plan.outputs) or not self._outputs
        plan.plain = plan.computes and len(device) == len(self._outputs) and not plan.allocated

    def _refused(self, plan: BindPlan, messages: Sequence[str]) -> str:
        given = ", ".join(
            f"{binding.name}={list(shape)}" for binding, shape in zip(self._inputs, plan.shapes, strict=True)
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


__all__ = ["Planner"]
