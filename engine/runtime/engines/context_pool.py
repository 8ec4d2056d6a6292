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
from engine.runtime.engines.contexts import UNDISTURBED
from engine.runtime.engines.limits import MISSES_BEFORE_EXTRA
from engine.runtime.engines.output_allocator import OutputAllocator
from engine.runtime.engines.runtime_cache import Configuration
from engine.runtime.engines.workspace import Workspace, scratch, workspace_of
from engine.runtime.failures import ExecutionError


@dataclass(eq=False)
class BindPlan:
    """Everything that stays the same between calls with the same input shapes.

    Attributes:
        key: what a call has to have in common with the one that the plan was made for.
        shapes: a shape per input.
        host_inputs: for each host input its position, and memory that holds its values.
        outputs: shape, strides and dtype of each output; None where TensorRT finds the shape
            while it runs.
        allocated: positions of the outputs for which TensorRT asks for memory while it runs.
        plain: every output is a fresh tensor on the GPU whose shape is known.
        computes: some output has, or may have, an element.
        lanes: for each stream, idle lanes that are set up for this plan.
    """

    key: Hashable
    profile: int
    shapes: Sequence[Shape]
    host_inputs: Sequence[tuple[int, torch.Tensor]]
    outputs: Sequence[tuple[Shape, Shape, torch.dtype] | None] = ()
    allocated: Sequence[int] = ()
    plain: bool = True
    computes: bool = True
    lanes: dict[int, list[Lane]] = field(default_factory=dict)


class Lane:
    """An execution context, the stream whose work it last joined, and what is set on it.

    Attributes:
        configuration: what the context was made with, and needs.
        home: the list in which it lies while it is idle.
        kept: outputs that are used again at every call, and the plan that they are for.
        workspace: the shared workspace that its engine runs with; None where the context has its own.
        memory: the part of the workspace that is set on the context.
        retired: it belongs to a CUDA graph.
        extra: it was made to keep one more shape set up.
        rebound: how often another plan was bound.
    """

    __slots__ = (
        "addresses",
        "allocators",
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
        "plan",
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
        self.home: list[Lane] = []
        self.plan: BindPlan | None = None
        self.bound_at = 0
        self.profile: int | None = None
        self.shapes: Sequence[Shape | None] = ()
        self.addresses: list[int] = []
        self.output_addresses = [0] * outputs
        self.kept: tuple[BindPlan, list[torch.Tensor]] | None = None
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

    def bind(self, plan: BindPlan, inputs: Sequence[Binding], profiles: int) -> None:
        """Set the profile, input shapes and host inputs of ``plan``; what is already set is not set again.

        Raises:
            ExecutionError: TensorRT refused a shape.
        """
        context = self.context
        self.plan = None
        self.rebound += 1
        if profiles > 1 and self.profile != plan.profile:
            if not context.set_optimization_profile_async(plan.profile, self.stream):
                raise ExecutionError(f"TensorRT refused optimization profile {plan.profile}")
            self.forget()
            self.profile = plan.profile
        before = self.shapes or (None,) * len(inputs)
        self.shapes = ()
        for binding, shape, old in zip(inputs, plan.shapes, before, strict=True):
            if binding.dynamic and shape != old and not context.set_input_shape(binding.name, tuple(shape)):
                raise ExecutionError(f"TensorRT refused shape {list(shape)} for input {binding.name!r}")
        for position, memory in plan.host_inputs:
            context.set_tensor_address(inputs[position].name, memory.data_ptr())
        self.shapes = plan.shapes
        self.plan = plan
        self.home = plan.lanes.setdefault(self.stream, [])

    def forget(self) -> None:
        """Set everything again at the next call."""
        self.plan = self.profile = self.kept = None
        self.shapes = ()
        self.home = []
        self.addresses = []
        self.output_addresses = [0] * len(self.output_addresses)


class LanePool:
    """Lanes of one engine on one device.

    A lane stays with a stream, where the order of the stream keeps two runs of it apart.  It
    changes streams when its work is done, or, at ``limit`` lanes, by waiting for that work.  Every
    lane holds the engine's workspace once more, so a lane is made only where runs really overlap,
    or where shapes take turns on one stream again and again.

    Args:
        create: makes a lane.
        limit: most lanes for runs that overlap.
        variants: most lanes for one stream; a lane beyond the first keeps another shape set up.
    """

    def __init__(self, create: Callable[[], Lane], device: int, limit: int, variants: int = 1) -> None:
        self._create = create
        self._device = device
        self._limit = max(1, limit)
        self._variants = max(1, variants)
        self._lock = threading.Lock()
        self._lanes: list[Lane] = []
        self._captured: list[Lane] = []
        self._ticks = 0
        # For each stream, the shapes of the calls that found its lanes set up for other shapes, and how many calls.
        self._missed: dict[int, tuple[set[Hashable], int]] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    @property
    def captured(self) -> int:
        """How many lanes belong to CUDA graphs."""
        return len(self._captured)

    def add(self, lane: Lane) -> None:
        """Put in a lane that has not run yet."""
        with self._lock:
            lane.home = [lane]
            self._lanes.append(lane)

    def take(self, stream: int, plan: BindPlan | None) -> Lane:
        """A lane for the current stream; give it back with `give`.

        Args:
            stream: the handle of the current stream.
            plan: what it is for; None where that is not known yet.
        """
        if torch.cuda.is_current_stream_capturing():
            return self._take_for_capture(stream, plan)
        if plan is not None:
            try:
                return plan.lanes[stream].pop()
            except (KeyError, IndexError):
                pass
        with UNDISTURBED:
            lane = self._acquire(stream, plan)
        if lane.stream != stream:
            if lane.stream_object is not None and not lane.stream_object.query():
                torch.cuda.current_stream(self._device).wait_event(lane.stream_object.record_event())
            self._join(lane, stream)
        self._ticks += 1
        lane.bound_at = self._ticks
        return lane

    def give(self, lane: Lane) -> None:
        """Put a lane back."""
        if not lane.retired:
            lane.home.append(lane)

    def discard(self, lane: Lane) -> None:
        """Leave out a lane that was taken; its context goes when its work is done."""
        with self._lock:
            self._lanes.remove(lane)
        if lane.stream_object is not None:
            lane.stream_object.synchronize()

    def drain(self, seconds: float = 60.0) -> bool:
        """Take all lanes for good, waiting for the calls that have them; False where one does not come back."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with self._lock:
                for lane in list(self._lanes):
                    if self._claim(lane):
                        self._lanes.remove(lane)
                if not self._lanes:
                    return True
            time.sleep(100e-6)
        return False

    def release(self, lane: Lane) -> None:
        """Take back a lane that a CUDA graph, which is gone now, was captured with."""
        with self._lock:
            if lane.retired:
                self._captured.remove(lane)
                lane.retired = False
                if len(self._lanes) < self._limit:
                    lane.forget()
                    lane.home = [lane]
                    self._lanes.append(lane)

    def _acquire(self, stream: int, plan: BindPlan | None) -> Lane:
        while True:
            with self._lock:
                here = [lane for lane in self._lanes if lane.stream == stream]
                if len(here) > 1:
                    here.sort(key=_age)
                if plan is not None and here and self._take_turns(stream, plan) and self._may_vary(here):
                    return self._made(extra=True)
                for lane in here:
                    if self._claim(lane):
                        return lane
                others = [lane for lane in self._lanes if lane.stream != stream]
                for lane in others:
                    if (lane.stream_object is None or lane.stream_object.query()) and self._claim(lane):
                        return lane
                if len(self._lanes) - self._extra() < self._limit:
                    return self._made()
                for lane in others:
                    if self._claim(lane):
                        return lane
            # All are in the hands of other threads, each for some microseconds.
            time.sleep(20e-6)

    def _take_turns(self, stream: int, plan: BindPlan) -> bool:
        """Count a call that finds no lane set up for it; True where the last ones were of few shapes."""
        shapes, count = self._missed.get(stream, (set(), 0))
        shapes.add(plan.key)
        self._missed[stream] = shapes, count + 1
        if count < MISSES_BEFORE_EXTRA:
            return False
        del self._missed[stream]
        return len(shapes) <= self._variants

    def _may_vary(self, here: Sequence[Lane]) -> bool:
        return 0 < len(here) < self._variants and self._extra() < self._limit

    def _extra(self) -> int:
        return sum(lane.extra for lane in self._lanes)

    def _made(self, extra: bool = False) -> Lane:
        lane = self._create()
        lane.extra = extra
        self._lanes.append(lane)
        return lane

    def _claim(self, lane: Lane) -> bool:
        # `take` pops without the lock, so another thread may have been quicker.
        try:
            lane.home.remove(lane)
        except ValueError:
            return False
        return True

    def _take_for_capture(self, stream: int, plan: BindPlan | None) -> Lane:
        # A captured graph replays with the context's workspace at any later time, so the lane
        # serves nothing else from now on.  Nothing may be created or waited for during capture;
        # `torch.cuda.graph` has synchronised before.
        with self._lock:
            # Of this stream first: another stream's lane may have work that the graph would not wait for.
            for lane in sorted(self._lanes, key=lambda lane: lane.stream != stream):
                if plan is not None and lane.plan is plan and self._claim(lane):
                    lane.retired = True
                    self._lanes.remove(lane)
                    self._captured.append(lane)
                    self._join(lane, stream)
                    _note_captured(self, lane)
                    return lane
        raise ExecutionError(
            "the engine cannot be captured into a CUDA graph yet: run it with inputs of the same shapes "
            "before each capture, and at most once inside it"
        )

    def _join(self, lane: Lane, stream: int) -> None:
        lane.stream = stream
        lane.stream_object = torch.cuda.current_stream(self._device)
        if lane.workspace is not None:
            lane.workspace = workspace_of(self._device, stream)
        if lane.plan is not None:
            lane.home = lane.plan.lanes.setdefault(stream, [])


def set_workspace(lane: Lane, size: int, device: torch.device) -> torch.Tensor | None:
    """Give a lane that shares memory the workspace of its stream; ``size`` in bytes.

    Returns:
        While a CUDA graph is captured, the memory to hold until the run is queued: it comes from the memory of
        the graph, where what follows may have it next.
    """
    workspace = lane.workspace
    if workspace is None:
        return None
    if lane.retired:
        memory = scratch(size, device)
        lane.context.set_device_memory(memory.data_ptr(), memory.numel())
        lane.memory = None
        return memory
    memory = workspace.reserve(size)
    if memory is not lane.memory:
        lane.context.set_device_memory(memory.data_ptr(), memory.numel())
        lane.memory = memory
    return None


def _age(lane: Lane) -> int:
    return lane.bound_at


_CAPTURING = threading.local()


@contextmanager
def captured_lanes() -> Iterator[list[tuple[LanePool, Lane]]]:
    """The lanes that this thread gives to CUDA graphs inside the ``with`` block, with their pools."""
    before = getattr(_CAPTURING, "lanes", None)
    found: list[tuple[LanePool, Lane]] = []
    _CAPTURING.lanes = found
    try:
        yield found
    finally:
        _CAPTURING.lanes = before


def _note_captured(pool: LanePool, lane: Lane) -> None:
    lanes = getattr(_CAPTURING, "lanes", None)
    if lanes is not None:
        lanes.append((pool, lane))
