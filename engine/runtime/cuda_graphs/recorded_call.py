"""One CUDA graph of a call: where it reads its inputs and what becomes of its outputs."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from engine.runtime.engines.inputs import alike


class RecordedInput:
    """Where a graph reads one of its inputs.

    Attributes:
        address: of the caller's own tensor, or of ``buffer``.
        buffer: what the caller's tensor is copied to where it lies elsewhere; None where the graph reads the tensor
            itself, because its address has not changed yet.
    """

    __slots__ = ("address", "buffer", "dtype", "shape")

    def __init__(self, tensor: torch.Tensor, buffer: torch.Tensor | None) -> None:
        self.shape = tensor.shape
        self.dtype = tensor.dtype
        self.buffer = buffer
        self.address = tensor.data_ptr() if buffer is None else buffer.data_ptr()


class RecordedCall:
    """A CUDA graph of one call.

    Attributes:
        stream: handle of the stream that it belongs to: only replays on one stream cannot overlap.
        device: index of the CUDA device.
        inputs: one entry per input; None for an input that is no tensor, whose value is part of the key.
        accepts: whether inputs are, but for their addresses and values, as those that `expect` was told of.
        addresses: where the graph reads its inputs; empty where it has some that are no tensors.
        outputs: the memory that the graph writes, and what is no tensor.
        passed: output position -> input position, of outputs that are an input.
        result: the outputs as the caller gets them, where they may be handed out as they are.
        lock: of the stream, whose graphs share their memory: nobody replays one before the results of another are
            copied.
    """

    def __init__(
        self,
        graph: torch.cuda.CUDAGraph,
        stream: torch.cuda.Stream,
        inputs: list[RecordedInput | None],
        outputs: list[Any],
        passed: dict[int, int],
        releases: Sequence[Callable[[], None]],
        lock: threading.Lock,
    ) -> None:
        self.graph = graph
        # Without the Python wrapper around it.
        self.replay: Callable[[], None] = super(torch.cuda.CUDAGraph, graph).replay
        self.stream = stream.cuda_stream
        self.device: int = stream.device_index
        self.inputs = inputs
        self.count = len(inputs)
        self.accepts: Callable[..., bool] = _nothing
        self.addresses = [] if None in inputs else [each.address for each in inputs if each is not None]
        self.outputs = outputs
        self.passed = passed
        self.result: Any = None
        self.lock = lock
        self._stream_object = stream
        self._releases = releases
        self._tensors = [i for i, output in enumerate(outputs) if isinstance(output, torch.Tensor) and i not in passed]
        self._single = len(outputs) == 1 and bool(self._tensors)

    def expect(self, inputs: Sequence[Any]) -> None:
        """Accept inputs like these, which the graph serves."""
        if self.addresses and not self.accepts(*inputs):
            self.accepts = alike(inputs) or _nothing

    def copies(self, inputs: Sequence[Any]) -> tuple[list[torch.Tensor], list[torch.Tensor]] | None:
        """Buffers to fill and what to fill them with; None where the graph does not serve these inputs."""
        buffers: list[torch.Tensor] = []
        values: list[torch.Tensor] = []
        for value, recorded in zip(inputs, self.inputs, strict=True):
            if recorded is None or (value.data_ptr() == recorded.address and value.is_contiguous()):
                continue
            buffer = recorded.buffer
            if buffer is None or value.get_device() != buffer.get_device():
                return None
            buffers.append(buffer)
            values.append(value.detach() if value.requires_grad else value)
        return buffers, values

    def fresh(self, inputs: Sequence[Any]) -> list[Any]:
        """Copies of the outputs, made on the current stream."""
        if self._single:
            return [self.outputs[0].clone()]
        results = list(self.outputs)
        for output, position in self.passed.items():
            results[output] = inputs[position]
        kept = [self.outputs[i] for i in self._tensors]
        for i, copy in zip(self._tensors, _copied(kept), strict=True):
            results[i] = copy
        return results

    def static(self, inputs: Sequence[Any]) -> list[Any]:
        """The outputs themselves, which the next replay overwrites."""
        results = list(self.outputs)
        for output, position in self.passed.items():
            results[output] = inputs[position]
        return results

    def __del__(self) -> None:
        """Release memory and contexts, once it has run for the last time and cannot be replayed any more."""
        if not sys.is_finalizing():
            with contextlib.suppress(RuntimeError):
                self._stream_object.synchronize()
                self.graph.reset()
                for release in self._releases:
                    release()


def _nothing(*inputs: Any) -> bool:
    return False


def _copied(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    if len(tensors) == 1:
        return [tensors[0].clone()]
    copies = [torch.empty_like(tensor) for tensor in tensors]
    if copies:
        torch._foreach_copy_(copies, tensors)
    return copies


__all__ = ["RecordedCall", "RecordedInput"]
