"""Where an engine writes its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from engine.runtime.engines.bindings import Binding, Shape
from engine.runtime.engines.context_pool import PooledContext, ShapeBinding
from engine.runtime.engines.output_allocator import output_allocator


class OutputMaker:
    """Makes the outputs of an engine on one device.

    Args:
        outputs: the engine's outputs.
        aliases: output position -> position of the input that it is written to.
        device: a CUDA device.

    Attributes:
        empty: makes a tensor of a shape, strides and dtype on the device, which has to be the current one.
    """

    def __init__(self, outputs: Sequence[Binding], aliases: Mapping[int, int], device: torch.device) -> None:
        self._outputs = outputs
        self._aliases = aliases
        self._device = device
        self.empty: Callable[[Shape, Shape, torch.dtype], torch.Tensor] = _fast_empty() or self._slow_empty

    def make(self, bound: ShapeBinding, inputs: Sequence[Any]) -> list[Any]:
        """Output tensors to bind; None for those that come from an allocator or from host memory."""
        results: list[Any] = []
        for i, output in enumerate(bound.outputs):
            if i in self._aliases:
                results.append(inputs[self._aliases[i]])
            elif output is None or (bound.computes and (i in bound.allocated or self._outputs[i].host)):
                results.append(None)
            else:
                device = torch.device("cpu") if self._outputs[i].host else self._device
                results.append(torch.empty(output[0], dtype=output[2], device=device))
        return results

    def set_allocators(self, pooled: PooledContext, bound: ShapeBinding) -> None:
        """Let TensorRT ask for the memory of the outputs for which the shape binding says so."""
        for i in bound.allocated:
            if i not in pooled.allocators:
                pooled.allocators[i] = output_allocator(self._device.index)
                pooled.context.set_output_allocator(self._outputs[i].name, pooled.allocators[i])

    def collect(self, pooled: PooledContext, bound: ShapeBinding, results: list[Any]) -> None:
        """Put in the results that TensorRT allocated, or wrote to host memory, while it ran."""
        for i in bound.allocated:
            results[i] = pooled.allocators[i].take(self._outputs[i].dtype)
        for i, memory in pooled.host_outputs.items():
            results[i] = memory.clone()

    def _slow_empty(self, shape: Shape, strides: Shape, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty_strided(shape, strides, dtype=dtype, device=self._device)


def _fast_empty() -> Callable[[Shape, Shape, torch.dtype], torch.Tensor] | None:
    # The allocation that Inductor's generated code uses: on the current device, without the
    # dispatcher, a third of the time of torch.empty.
    return getattr(torch._C._dynamo.guards, "_empty_strided_cuda", None)


__all__ = ["OutputMaker"]
