"""Execution contexts, pooled so that threads and streams run one engine side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.runtime.bindings import Binding, Shape
from engine.runtime.failures import ExecutionError
from engine.runtime.output_allocator import OutputAllocator


@dataclass(eq=False)
class BindPlan:
    """Everything that stays the same between calls with the same input shapes.

    Attributes:
        shapes: a shape per input.
        host_inputs: for each host input its position, and memory that holds its values.
        outputs: shape, strides and dtype of each output; None where TensorRT finds the shape
            while it runs.
        allocated: positions of the outputs for which TensorRT asks for memory while it runs.
        plain: every output is a fresh tensor on the GPU whose shape is known.
        computes: some output has, or may have, an element.
    """

    profile: int
    shapes: Sequence[Shape]
    host_inputs: Sequence[tuple[int, torch.Tensor]]
    outputs: Sequence[tuple[Shape, Shape, torch.dtype] | None] = ()
    allocated: Sequence[int] = ()
    plain: bool = True
    computes: bool = True


class Lane:
    """An execution context, the stream whose work it last joined, and what is set on it."""

    __slots__ = (
        "addresses",
        "allocators",
        "context",
        "host_outputs",
        "output_addresses",
        "plan",
        "profile",
        "retired",
        "shapes",
        "stream",
        "stream_object",
    )

    def __init__(self, context: Any, outputs: int) -> None:
        self.context = context
        self.plan: BindPlan | None = None
        self.profile: int | None = None
        self.shapes: Sequence[Shape | None] = ()
        self.addresses: list[int] = []
        self.output_addresses = [0] * outputs
        self.allocators: dict[int, OutputAllocator] = {}
        self.host_outputs: dict[int, torch.Tensor] = {}
        self.stream = -1
        # Held so that the stream outlives what the pool may still have to wait for.
        self.stream_object: torch.cuda.Stream | None = None
        self.retired = False

    def bind(self, plan: BindPlan, inputs: Sequence[Binding], profiles: int) -> None:
        """Set the profile, input shapes and host inputs of ``plan``; what is already set is not set again.

        Raises:
            ExecutionError: TensorRT refused a shape.
        """
        context = self.context
        self.plan = None
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

    def forget(self) -> None:
        """Set everything again at the next call."""
        self.plan = self.profile = None
        self.shapes = ()
        self.addresses = []
        self.output_addresses = [0] * len(self.output_addresses)


class LanePool:
    """Lanes of one engine on one device.

    A lane stays with a stream, where the order of the stream keeps two runs of it apart.  It
    changes streams when its work is done, or, at ``limit`` lanes, by waiting for that work.  Every
    lane holds the engine's workspace once more, so a lane is made only where runs really overlap.
    """

    def __init__(self, create: Callable[[], Lane], device: int, limit: int) -> None:
        self._create = create
        self._device = device
        self._limit = max(1, limit)
        self._lock = threading.Lock()
        self._idle: dict[int, list[Lane]] = {}
        self._captured: list[Lane] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, lane: Lane) -> None:
        """Put in a lane that has not run yet."""
        with self._lock:
            self._count += 1
            self._idle.setdefault(lane.stream, []).append(lane)

    def take(self, stream: int, plan: BindPlan | None) -> Lane:
        """A lane for the current stream; give it back with `give`.

        Args:
            stream: the handle of the current stream.
            plan: what it is for; None where that is not known yet.
        """
        try:
            return self._idle[stream].pop()
        except (KeyError, IndexError):
            pass
        if torch.cuda.is_current_stream_capturing():
            return self._take_for_capture(stream, plan)
        lane = self._acquire()
        if lane.stream_object is not None and not lane.stream_object.query():
            torch.cuda.current_stream(self._device).wait_event(lane.stream_object.record_event())
        self._join(lane, stream)
        return lane

    def give(self, lane: Lane) -> None:
        """Put a lane back."""
        if not lane.retired:
            try:
                self._idle[lane.stream].append(lane)
            except KeyError:
                self._idle.setdefault(lane.stream, []).append(lane)

    def _acquire(self) -> Lane:
        while True:
            with self._lock:
                idle = [lane for lanes in list(self._idle.values()) for lane in list(lanes)]
                done = [lane for lane in idle if lane.stream_object is None or lane.stream_object.query()]
                for lane in done:
                    if self._claim(lane):
                        return lane
                if self._count < self._limit:
                    lane = self._create()
                    self._count += 1
                    return lane
                for lane in idle:
                    if self._claim(lane):
                        return lane
            # All are in the hands of other threads, each for some microseconds.
            time.sleep(20e-6)

    def _claim(self, lane: Lane) -> bool:
        # `take` pops without the lock, so another thread may have been quicker.
        try:
            self._idle[lane.stream].remove(lane)
        except ValueError:
            return False
        return True

    def _take_for_capture(self, stream: int, plan: BindPlan | None) -> Lane:
        # A captured graph replays with the context's workspace at any later time, so the lane
        # serves nothing else from now on.  Nothing may be created or waited for during capture;
        # `torch.cuda.graph` has synchronised before.
        with self._lock:
            for lane in [lane for lanes in list(self._idle.values()) for lane in list(lanes)]:
                if plan is not None and lane.plan is plan and self._claim(lane):
                    lane.retired = True
                    self._count -= 1
                    self._captured.append(lane)
                    self._join(lane, stream)
                    return lane
        raise ExecutionError(
            "the engine cannot be captured into a CUDA graph yet: run it with inputs of the same shapes "
            "before each capture, and at most once inside it"
        )

    def _join(self, lane: Lane, stream: int) -> None:
        lane.stream = stream
        lane.stream_object = torch.cuda.current_stream(self._device)
