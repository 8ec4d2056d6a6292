"""Execution contexts, pooled so that threads and streams run one engine side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from engine.runtime.engines.bindings import Binding, Shape
from engine.runtime.engines.contexts import CAPTURE_SAFE_LOCK
from engine.runtime.engines.limits import MISSES_BEFORE_EXTRA
from engine.runtime.engines.output_allocator import OutputAllocator
from engine.runtime.engines.runtime_cache import Configuration
from engine.runtime.engines.workspace import Workspace, scratch, workspace_of
from engine.runtime.failures import ExecutionError


@dataclass(eq=False)
class ShapeBinding:
    """Everything that stays the same between calls with the same input shapes.

    Attributes:
        key: what a call has to have in common with the one that this was made for.
        shapes: a shape per input.
        host_inputs: for each host input its position, and memory that holds its values.
        outputs: shape, strides and dtype of each output; None where TensorRT finds the shape
            while it runs.
        allocated: positions of the outputs for which TensorRT asks for memory while it runs.
        plain: every output is a fresh tensor on the GPU whose shape is known.
        computes: some output has, or may have, an element.
        contexts: for each stream, idle contexts that are set up for it.
    """

    key: Hashable
    profile: int
    shapes: Sequence[Shape]
    host_inputs: Sequence[tuple[int, torch.Tensor]]
    outputs: Sequence[tuple[Shape, Shape, torch.dtype] | None] = ()
    allocated: Sequence[int] = ()
    plain: bool = True
    computes: bool = True
    contexts: dict[int, list[PooledContext]] = field(default_factory=dict)


class PooledContext:
    """An execution context, the stream whose work it last joined, and what is set on it.

    Attributes:
        configuration: what the context was made with, and needs.
        home: the list in which it lies while it is idle.
        kept: outputs that are used again at every call, and the shape binding that they are for.
        workspace: the shared workspace that its engine runs with; None where the context has its own.
        memory: the part of the workspace that is set on the context.
        retired: it belongs to a CUDA graph.
        extra: it was made to keep one more shape set up.
        rebound: how often another shape binding was set.
    """

    __slots__ = (
        "addresses",
        "allocators",
        "bound",
        "bound_at",
        "configuration",
        "context",
        "execute",
        "extra",
        "home",
        "host_outputs",
        "kept",
        "memory",
        "output_addresses",
        "profile",
        "rebound",
        "retired",
        "set_address",
        "shapes",
        "stream",
        "stream_object",
        "workspace",
    )

    def __init__(self, context: Any, outputs: int, configuration: Configuration | None = None) -> None:
        self.context = context
        self.configuration = configuration
        self.execute: Callable[[int], bool] = context.execute_async_v3
        self.set_address: Callable[[str, int], bool] = context.set_tensor_address
        self.home: list[PooledContext] = []
        self.bound: ShapeBinding | None = None
        self.bound_at = 0
        self.profile: int | None = None
        self.shapes: Sequence[Shape | None] = ()
        self.addresses: list[int] = []
        self.output_addresses = [0] * outputs
        self.kept: tuple[ShapeBinding, list[torch.Tensor]] | None = None
        self.allocators: dict[int, OutputAllocator] = {}
        self.host_outputs: dict[int, torch.Tensor] = {}
        self.workspace: Workspace | None = None
        self.memory: torch.Tensor | None = None
        self.stream = -1
        # Held so that the stream outlives what the pool may still have to wait for.
        self.stream_object: torch.cuda.Stream | None = None
        self.retired = False
        self.extra = False
        self.rebound = 0

    def bind(self, bound: ShapeBinding, inputs: Sequence[Binding], profiles: int) -> None:
        """Set the profile, input shapes and host inputs of ``bound``; what is already set is not set again.

        Raises:
            ExecutionError: TensorRT rejected a shape.
        """
        context = self.context
        self.bound = None
        self.rebound += 1
        if profiles > 1 and self.profile != bound.profile:
            if not context.set_optimization_profile_async(bound.profile, self.stream):
                raise ExecutionError(f"TensorRT rejected optimization profile {bound.profile}")
            self.forget()
            self.profile = bound.profile
        before = self.shapes or (None,) * len(inputs)
        self.shapes = ()
        for binding, shape, old in zip(inputs, bound.shapes, before, strict=True):
            if binding.dynamic and shape != old and not context.set_input_shape(binding.name, tuple(shape)):
                raise ExecutionError(f"TensorRT rejected shape {list(shape)} for input {binding.name!r}")
        for position, memory in bound.host_inputs:
            context.set_tensor_address(inputs[position].name, memory.data_ptr())
        self.shapes = bound.shapes
        self.bound = bound
        self.home = bound.contexts.setdefault(self.stream, [])

    def forget(self) -> None:
        """Set everything again at the next call."""
        self.bound = self.profile = self.kept = None
        self.shapes = ()
        self.home = []
        self.addresses = []
        self.output_addresses = [0] * len(self.output_addresses)


class ContextPool:
    """Lanes of one engine on one device.

    A pooled context stays with a stream, where the order of the stream keeps two runs of it apart.  It
    changes streams when its work is done, or, at ``limit`` contexts, by waiting for that work.  Every
    one holds the engine's workspace once more, so one is made only where runs really overlap,
    or where shapes take turns on one stream again and again.

    Args:
        create: makes a context.
        limit: most contexts for runs that overlap.
        variants: most contexts for one stream; one beyond the first keeps another shape set up.
    """

    def __init__(self, create: Callable[[], PooledContext], device: int, limit: int, variants: int = 1) -> None:
        self._create = create
        self._device = device
        self._limit = max(1, limit)
        self._variants = max(1, variants)
        self._lock = threading.Lock()
        self._contexts: list[PooledContext] = []
        self._captured: list[PooledContext] = []
        self._ticks = 0
        # For each stream, the shapes of the calls that found its contexts set up for other shapes, and how many calls.
        self._missed: dict[int, tuple[set[Hashable], int]] = {}

    def __len__(self) -> int:
        return len(self._contexts)

    @property
    def captured(self) -> int:
        """How many contexts belong to CUDA graphs."""
        return len(self._captured)

    def add(self, pooled: PooledContext) -> None:
        """Put in a context that has not run yet."""
        with self._lock:
            pooled.home = [pooled]
            self._contexts.append(pooled)

    def take(self, stream: int, bound: ShapeBinding | None) -> PooledContext:
        """A context for the current stream; give it back with `give`.

        Args:
            stream: the handle of the current stream.
            bound: what it is for; None where that is not known yet.
        """
        if torch.cuda.is_current_stream_capturing():
            return self._take_for_capture(stream, bound)
        if bound is not None:
            try:
                return bound.contexts[stream].pop()
            except (KeyError, IndexError):
                pass
        with CAPTURE_SAFE_LOCK:
            pooled = self._acquire(stream, bound)
        if pooled.stream != stream:
            if pooled.stream_object is not None and not pooled.stream_object.query():
                torch.cuda.current_stream(self._device).wait_event(pooled.stream_object.record_event())
            self._join(pooled, stream)
        self._ticks += 1
        pooled.bound_at = self._ticks
        return pooled

    def give(self, pooled: PooledContext) -> None:
        """Put a context back."""
        if not pooled.retired:
            pooled.home.append(pooled)

    def discard(self, pooled: PooledContext) -> None:
        """Leave out a context that was taken; it is destroyed when its work is done."""
        with self._lock:
            self._contexts.remove(pooled)
        if pooled.stream_object is not None:
            pooled.stream_object.synchronize()

    def drain(self, seconds: float = 60.0) -> bool:
        """Take all contexts for good, waiting for the calls that have them; False where one does not come back."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with self._lock:
                for pooled in list(self._contexts):
                    if self._claim(pooled):
                        self._contexts.remove(pooled)
                if not self._contexts:
                    return True
            time.sleep(100e-6)
        return False

    def release(self, pooled: PooledContext) -> None:
        """Take back a context that a CUDA graph, which is gone now, was captured with."""
        with self._lock:
            if pooled.retired:
                self._captured.remove(pooled)
                pooled.retired = False
                if len(self._contexts) < self._limit:
                    pooled.forget()
                    pooled.home = [pooled]
                    self._contexts.append(pooled)

    def _acquire(self, stream: int, bound: ShapeBinding | None) -> PooledContext:
        while True:
            with self._lock:
                here = [pooled for pooled in self._contexts if pooled.stream == stream]
                if len(here) > 1:
                    here.sort(key=_age)
                if bound is not None and here and self._take_turns(stream, bound) and self._may_vary(here):
                    return self._made(extra=True)
                for pooled in here:
                    if self._claim(pooled):
                        return pooled
                others = [pooled for pooled in self._contexts if pooled.stream != stream]
                for pooled in others:
                    if (pooled.stream_object is None or pooled.stream_object.query()) and self._claim(pooled):
                        return pooled
                if len(self._contexts) - self._extra() < self._limit:
                    return self._made()
                for pooled in others:
                    if self._claim(pooled):
                        return pooled
            # All are in the hands of other threads, each for some microseconds.
            time.sleep(20e-6)

    def _take_turns(self, stream: int, bound: ShapeBinding) -> bool:
        """Count a call that finds no context set up for it; True where the last ones were of few shapes."""
        shapes, count = self._missed.get(stream, (set(), 0))
        shapes.add(bound.key)
        self._missed[stream] = shapes, count + 1
        if count < MISSES_BEFORE_EXTRA:
            return False
        del self._missed[stream]
        return len(shapes) <= self._variants

    def _may_vary(self, here: Sequence[PooledContext]) -> bool:
        return 0 < len(here) < self._variants and self._extra() < self._limit

    def _extra(self) -> int:
        return sum(pooled.extra for pooled in self._contexts)

    def _made(self, extra: bool = False) -> PooledContext:
        pooled = self._create()
        pooled.extra = extra
        self._contexts.append(pooled)
        return pooled

    def _claim(self, pooled: PooledContext) -> bool:
        # `take` pops without the lock, so another thread may have been quicker.
        try:
            pooled.home.remove(pooled)
        except ValueError:
            return False
        return True

    def _take_for_capture(self, stream: int, bound: ShapeBinding | None) -> PooledContext:
        # A captured graph replays with the context's workspace at any later time, so this context
        # serves nothing else from now on.  Nothing may be created or waited for during capture;
        # `torch.cuda.graph` has synchronised before.
        with self._lock:
            # Of this stream first: another stream's context may have work that the graph would not wait for.
            for pooled in sorted(self._contexts, key=lambda pooled: pooled.stream != stream):
                if bound is not None and pooled.bound is bound and self._claim(pooled):
                    pooled.retired = True
                    self._contexts.remove(pooled)
                    self._captured.append(pooled)
                    self._join(pooled, stream)
                    _note_captured(self, pooled)
                    return pooled
        raise ExecutionError(
            "the engine cannot be captured into a CUDA graph yet: run it with inputs of the same shapes "
            "before each capture, and at most once inside it"
        )

    def _join(self, pooled: PooledContext, stream: int) -> None:
        pooled.stream = stream
        pooled.stream_object = torch.cuda.current_stream(self._device)
        if pooled.workspace is not None:
            pooled.workspace = workspace_of(self._device, stream)
        if pooled.bound is not None:
            pooled.home = pooled.bound.contexts.setdefault(stream, [])


def set_workspace(pooled: PooledContext, size: int, device: torch.device) -> torch.Tensor | None:
    """Give a context that shares memory the workspace of its stream; ``size`` in bytes.

    Returns:
        While a CUDA graph is captured, the memory to hold until the run is queued: it comes from the memory of
        the graph, where what follows may have it next.
    """
    workspace = pooled.workspace
    if workspace is None:
        return None
    if pooled.retired:
        memory = scratch(size, device)
        pooled.context.set_device_memory(memory.data_ptr(), memory.numel())
        pooled.memory = None
        return memory
    memory = workspace.reserve(size)
    if memory is not pooled.memory:
        pooled.context.set_device_memory(memory.data_ptr(), memory.numel())
        pooled.memory = memory
    return None


def _age(pooled: PooledContext) -> int:
    return pooled.bound_at


_CAPTURING = threading.local()


@contextmanager
def captured_contexts() -> Iterator[list[tuple[ContextPool, PooledContext]]]:
    """The contexts that this thread gives to CUDA graphs inside the ``with`` block, with their pools."""
    before = getattr(_CAPTURING, "contexts", None)
    found: list[tuple[ContextPool, PooledContext]] = []
    _CAPTURING.contexts = found
    try:
        yield found
    finally:
        _CAPTURING.contexts = before


def _note_captured(pool: ContextPool, pooled: PooledContext) -> None:
    contexts = getattr(_CAPTURING, "contexts", None)
    if contexts is not None:
        contexts.append((pool, pooled))
