"""Memory for outputs whose size TensorRT finds out while it runs."""

from __future__ import annotations

import functools
import math
from typing import Any, Protocol

import torch

from engine.runtime.failures import ExecutionError
from engine.tensorrt import load


class OutputAllocator(Protocol):
    """A ``trt.IOutputAllocator`` for one output of one execution context."""

    def take(self, dtype: torch.dtype) -> torch.Tensor:
        """The output of the run that was just queued; the allocator forgets it."""
        ...


def output_allocator(device: int) -> OutputAllocator:
    """Make an allocator on CUDA device ``device``; memory comes from PyTorch's allocator."""
    allocator: OutputAllocator = _allocator_class()(device)
    return allocator


@functools.cache
def _allocator_class() -> type:
    trt = load()

    class TorchOutputAllocator(trt.IOutputAllocator):  # type: ignore[misc, name-defined]
        def __init__(self, device: int) -> None:
            trt.IOutputAllocator.__init__(self)
            self._device = torch.device("cuda", device)
            self._memory: torch.Tensor | None = None
            self._shape: tuple[int, ...] | None = None

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            # PyTorch aligns to 512 bytes, more than TensorRT asks for.  An address is wanted even
            # for an output of no elements.
            self._memory = torch.empty(max(int(size), 1), dtype=torch.uint8, device=self._device)
            return self._memory.data_ptr()

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            return self.reallocate_output_async(tensor_name, memory, size, alignment, 0)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self._shape = tuple(shape)

        def take(self, dtype: torch.dtype) -> torch.Tensor:
            memory, shape = self._memory, self._shape
            self._memory = self._shape = None
            if memory is None or shape is None:
                raise ExecutionError("TensorRT ran without reporting an output's memory and shape")
            return memory[: math.prod(shape) * dtype.itemsize].view(dtype).view(shape)

    return TorchOutputAllocator
