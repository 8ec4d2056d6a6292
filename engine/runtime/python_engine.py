"""An engine on one GPU, run through TensorRT's Python bindings."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import torch

from engine.errors import InputError
from engine.logger import capturing_logger, error_texts
from engine.runtime.bindings import Binding, Shape, binding_names, choose_profile, read_bindings
from engine.runtime.boundary import check_count
from engine.runtime.failures import EngineLoadError, ExecutionError, quoted
from engine.runtime.lanes import BindPlan, Lane, LanePool
from engine.runtime.output_allocator import output_allocator
from engine.tensorrt import load

Input: TypeAlias = "torch.Tensor | int | float | bool"

_PLANS = 1024
"""Shape signatures remembered; a plan is some hundred bytes."""

# Kernels read vectors of up to 16 bytes; a slice of a tensor may start anywhere.
_MISALIGNED = 15


def _fast_empty() -> Callable[[Shape, Shape, torch.dtype], torch.Tensor] | None:
    # The allocation that Inductor's generated code uses: on the current device, without the
    # dispatcher, a third of the time of torch.empty.
    return getattr(torch._C._dynamo.guards, "_empty_strided_cuda", None)


class TRTEngine:
    """A deserialised engine on one GPU.

    Calls may come from any thread and run on PyTorch's current stream; they do not wait for the
    GPU.  Outputs are fresh tensors, except those that the engine aliases to an input.

    Args:
        serialized: the plan.
        device: CUDA device index.
        inputs: input binding names, in calling order.
        outputs: output binding names, in the order of the results; None for both takes the engine's order.
        requires_output_allocator: let TensorRT ask for memory for every output while it runs.
        contexts: the most execution contexts to make for calls that overlap.
        layer_names: names to look for in TensorRT's messages when loading fails.

    Raises:
        EngineLoadError: TensorRT refused the plan, or to make an execution context for it.
        RuntimeUnavailable: the binding names are not the engine's.
    """

    def __init__(
        self,
        serialized: bytes,
        device: int,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        *,
        name: str = "",
        requires_output_allocator: bool = False,
        contexts: int = 8,
        layer_names: Collection[str] = (),
    ) -> None:
        self.name = name
        self.device = torch.device("cuda", device)
        self._index = device
        self._allocate_all = requires_output_allocator
        self._logger = capturing_logger()
        with torch.cuda.device(device), self._logger.gather() as messages:
            # Stands for the memory of tensors without elements, as TensorRT takes no null address.
            # Made first: it makes CUDA's context on the device, which TensorRT then uses.
            self._scratch = torch.empty(512, dtype=torch.uint8, device=self.device)
            self._runtime = load().Runtime(self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(serialized)
            if self._engine is None:
                raise EngineLoadError(f"{self._called()} does not load", error_texts(messages), layer_names)
            context = self._engine.create_execution_context()
            if context is None:
                raise EngineLoadError(
                    f"TensorRT loads {self._called()} and cannot prepare it to run", error_texts(messages), layer_names
                )
        own = binding_names(self._engine)
        self.inputs, self.outputs = read_bindings(
            self._engine, own[0] if inputs is None else inputs, own[1] if outputs is None else outputs
        )
        self._read_aliases()
        self._profiles: int = self._engine.num_optimization_profiles
        # A host input has no dtype here, which sends it to `_normal`.
        self._dtypes = [None if binding.host else binding.dtype for binding in self.inputs]
        self._device_positions = [i for i, binding in enumerate(self.inputs) if not binding.host]
        self._device_names = [self.inputs[i].name for i in self._device_positions]
        self._output_names = [binding.name for binding in self.outputs]
        self._has_host_inputs = len(self._device_positions) < len(self.inputs)
        self._scratch_address = self._scratch.data_ptr()
        self._empty = _fast_empty() or self._slow_empty
        self._raw_stream: Callable[[int], int] = torch._C._cuda_getCurrentRawStream
        self._current_device: Callable[[], int] = torch._C._cuda_getDevice
        self._plans: dict[tuple[tuple[Shape, ...], tuple[Shape, ...]], BindPlan] = {}
        self._plans_lock = threading.Lock()
        self._pool = LanePool(self._new_lane, device, contexts)
        self._pool.add(self._lane(context))

    def __call__(self, inputs: Sequence[Input]) -> list[torch.Tensor]:
        """Queue one run on the current stream.

        Raises:
            InputError: an input has the wrong dtype, device or shape.
            ExecutionError: TensorRT refused to run.
        """
        if self._current_device() != self._index:
            with torch.cuda.device(self._index):
                return self._run(inputs)
        return self._run(inputs)

    def output_shapes(self, shapes: Sequence[Shape]) -> list[Shape | None]:
        """Output shapes for inputs of given shapes, without a run; None for a shape found while running.

        Raises:
            InputError: the engine does not take such shapes, or has host inputs: their values decide.
        """
        if self._has_host_inputs:
            raise InputError(f"{self._called()} computes output shapes from values of its inputs")
        with torch.cuda.device(self._index):
            plan = self._plan(tuple(map(tuple, shapes)), ())
        return [None if output is None else output[0] for output in plan.outputs]

    def _run(self, inputs: Sequence[Input]) -> list[torch.Tensor]:
        tensors: Sequence[Any] = inputs
        values: tuple[Shape, ...] = ()
        read = self._read(inputs)
        if read is None:
            tensors, values = self._normal(inputs)
            read = (
                tuple([tensor.shape for tensor in tensors]),
                [tensors[i].data_ptr() or self._scratch_address for i in self._device_positions],
            )
        shapes, addresses = read
        plan = self._plans.get((shapes, values))
        if plan is None:
            plan = self._plan(shapes, values)
        if not plan.computes:
            return self._outputs(plan, tensors)

        stream = self._raw_stream(self._index)
        lane = self._pool.take(stream, plan)
        try:
            if lane.plan is not plan:
                self._bind(lane, plan)
            set_address = lane.context.set_tensor_address
            if lane.addresses != addresses:
                before = lane.addresses or [0] * len(addresses)
                lane.addresses = []
                for name, address, old in zip(self._device_names, addresses, before, strict=True):
                    if address != old:
                        set_address(name, address)
                lane.addresses = addresses
            if plan.plain:
                empty = self._empty
                results = [empty(*output) for output in plan.outputs]  # type: ignore[misc]
            else:
                results = self._outputs(plan, tensors)
            given = lane.output_addresses
            for i, result in enumerate(results):
                if result is not None:
                    address = result.data_ptr() or self._scratch_address
                    if given[i] != address:
                        set_address(self._output_names[i], address)
                        given[i] = address
            if not lane.context.execute_async_v3(stream):
                raise ExecutionError(f"{self._called()} did not run" + quoted(self._logger.recent_errors()[-5:]))
            if not plan.plain:
                self._collect(lane, plan, results)
            return results
        except BaseException:
            lane.forget()
            raise
        finally:
            self._pool.give(lane)

    def _read(self, inputs: Sequence[Input]) -> tuple[tuple[Shape, ...], list[int]] | None:
        """Shapes and addresses of inputs that can be bound as they are; None where one cannot."""
        dtypes = self._dtypes
        if len(inputs) != len(dtypes):
            check_count(inputs, [binding.name for binding in self.inputs])
        index = self._index
        shapes, addresses = [], []
        for value, dtype in zip(inputs, dtypes):  # noqa: B905 - checked above, and every call runs this
            if not isinstance(value, torch.Tensor) or value.dtype is not dtype:
                return None
            if value.get_device() != index or not value.is_contiguous():
                return None
            address = value.data_ptr()
            if not address or address & _MISALIGNED:
                return None
            shapes.append(value.shape)
            addresses.append(address)
        return tuple(shapes), addresses

    def _normal(self, inputs: Sequence[Input]) -> tuple[list[torch.Tensor], tuple[Shape, ...]]:
        """Inputs as tensors that can be bound, and the values of the host inputs."""
        tensors: list[torch.Tensor] = []
        values: list[Shape] = []
        for i, (binding, value) in enumerate(zip(self.inputs, inputs, strict=True)):
            if not isinstance(value, torch.Tensor):
                value = self._from_number(binding, value)
            if value.dtype != binding.dtype:
                raise InputError(f"input {binding.name!r} is {value.dtype}, the engine takes {binding.dtype}")
            if binding.host:
                # TensorRT computes shapes from it on the host: a GPU tensor has to be waited for.
                value = value.detach().cpu().contiguous()
                values.append(tuple(value.reshape(-1).tolist()))
            elif i in self._aliases.values() and not self._is_bindable(value):
                raise InputError(
                    f"input {binding.name!r} is written to by the engine: it has to be a contiguous tensor on "
                    f"{self.device}, aligned to {_MISALIGNED + 1} bytes"
                )
            else:
                value = self._on_device(binding, value.detach())
            tensors.append(value)
        return tensors, tuple(values)

    def _from_number(self, binding: Binding, value: Any) -> torch.Tensor:
        if not isinstance(value, int | float):
            raise InputError(f"input {binding.name!r} is a {type(value).__name__}, the engine takes a tensor")
        shape = tuple(1 if size == -1 else size for size in binding.shape)
        if math.prod(shape) != 1:
            raise InputError(f"input {binding.name!r} is a number, the engine takes shape {list(binding.shape)}")
        if isinstance(value, float) and not binding.dtype.is_floating_point:
            raise InputError(f"input {binding.name!r} is a float, the engine takes {binding.dtype}")
        # Filled by a kernel, not copied: the call must not wait for the GPU.
        return torch.full(shape, value, dtype=binding.dtype, device="cpu" if binding.host else self.device)

    def _on_device(self, binding: Binding, value: torch.Tensor) -> torch.Tensor:
        if value.device != self.device:
            if value.ndim or value.device.type != "cpu":
                raise InputError(f"input {binding.name!r} is on {value.device}, the engine runs on {self.device}")
            # PyTorch lets a 0-d CPU tensor stand beside CUDA tensors as if it were a number.
            value = value.to(self.device, non_blocking=True)
        value = value.resolve_conj().resolve_neg().contiguous()
        return value.clone(memory_format=torch.contiguous_format) if value.data_ptr() & _MISALIGNED else value

    def _is_bindable(self, value: torch.Tensor) -> bool:
        return value.device == self.device and value.is_contiguous() and not value.data_ptr() & _MISALIGNED

    def _plan(self, shapes: tuple[Shape, ...], values: tuple[Shape, ...]) -> BindPlan:
        with self._plans_lock:
            plan = self._plans.get((shapes, values))
            if plan is None:
                plan = self._make_plan(shapes, values)
                while len(self._plans) >= _PLANS:
                    del self._plans[next(iter(self._plans))]
                self._plans[shapes, values] = plan
        return plan

    def _make_plan(self, shapes: tuple[Shape, ...], values: tuple[Shape, ...]) -> BindPlan:
        remaining = iter(values)
        by_input = [next(remaining) if binding.host else None for binding in self.inputs]
        plan = BindPlan(
            choose_profile(self.inputs, shapes, by_input),
            tuple(map(tuple, shapes)),
            [(i, _host_memory(self.inputs[i], value)) for i, value in enumerate(by_input) if value is not None],
        )
        lane = self._pool.take(self._raw_stream(self._index), None)
        try:
            with self._logger.gather() as messages:
                self._bind(lane, plan)
                try:
                    unset = lane.context.infer_shapes()
                except RuntimeError as error:
                    raise ExecutionError(self._refused(plan, error_texts(messages) or [str(error)])) from None
                if unset:
                    raise ExecutionError(self._refused(plan, [f"{', '.join(unset)} not set", *error_texts(messages)]))
            found = [tuple(lane.context.get_tensor_shape(binding.name)) for binding in self.outputs]
            self._plan_outputs(plan, found)
            self._set_allocators(lane, plan)
        except BaseException:
            lane.forget()
            raise
        finally:
            self._pool.give(lane)
        return plan

    def _plan_outputs(self, plan: BindPlan, found: Sequence[Shape]) -> None:
        device = [i for i, binding in enumerate(self.outputs) if not binding.host and i not in self._aliases]
        plan.allocated = [i for i in device if self._allocate_all or min(found[i], default=0) < 0]
        plan.outputs = [
            None if min(shape, default=0) < 0 else (shape, _strides(shape), binding.dtype)
            for binding, shape in zip(self.outputs, found, strict=True)
        ]
        plan.plain = len(device) == len(self.outputs) and not plan.allocated
        plan.computes = any(output is None or math.prod(output[0]) for output in plan.outputs) or not self.outputs

    def _refused(self, plan: BindPlan, messages: Sequence[str]) -> str:
        given = ", ".join(
            f"{binding.name}={list(shape)}" for binding, shape in zip(self.inputs, plan.shapes, strict=True)
        )
        return f"{self._called()} does not take the shapes {given}" + quoted(messages)

    def _bind(self, lane: Lane, plan: BindPlan) -> None:
        lane.bind(plan, self.inputs, self._profiles)
        self._set_allocators(lane, plan)

    def _set_allocators(self, lane: Lane, plan: BindPlan) -> None:
        for i in plan.allocated:
            if i not in lane.allocators:
                lane.allocators[i] = output_allocator(self._index)
                lane.context.set_output_allocator(self._output_names[i], lane.allocators[i])

    def _outputs(self, plan: BindPlan, tensors: Sequence[Any]) -> list[Any]:
        """Output tensors to bind; None for those that come from an allocator or from host memory."""
        results: list[Any] = []
        for i, output in enumerate(plan.outputs):
            if i in self._aliases:
                results.append(tensors[self._aliases[i]])
            elif output is None or (plan.computes and (i in plan.allocated or self.outputs[i].host)):
                results.append(None)
            else:
                device = torch.device("cpu") if self.outputs[i].host else self.device
                results.append(torch.empty(output[0], dtype=output[2], device=device))
        return results

    def _collect(self, lane: Lane, plan: BindPlan, results: list[Any]) -> None:
        for i in plan.allocated:
            results[i] = lane.allocators[i].take(self.outputs[i].dtype)
        for i, memory in lane.host_outputs.items():
            results[i] = memory.clone()

    def _slow_empty(self, shape: Shape, strides: Shape, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty_strided(shape, strides, dtype=dtype, device=self.device)

    def _new_lane(self) -> Lane:
        with self._logger.gather() as messages:
            context = self._engine.create_execution_context()
            if context is None:
                raise ExecutionError(
                    f"TensorRT cannot make {len(self._pool) + 1} execution contexts for {self._called()}"
                    + quoted(error_texts(messages))
                )
        return self._lane(context)

    def _lane(self, context: Any) -> Lane:
        lane = Lane(context, len(self.outputs))
        for i, binding in enumerate(self.outputs):
            if binding.host:
                lane.host_outputs[i] = memory = torch.zeros(binding.shape, dtype=binding.dtype)
                context.set_tensor_address(binding.name, memory.data_ptr())
        return lane

    def _read_aliases(self) -> None:
        names = [binding.name for binding in self.inputs]
        find = getattr(self._engine, "get_aliased_input_tensor", lambda name: None)
        found = {i: find(binding.name) for i, binding in enumerate(self.outputs)}
        self._aliases = {i: names.index(name) for i, name in found.items() if name}

    def _called(self) -> str:
        return f"engine {self.name!r}" if self.name else "the engine"


def _host_memory(binding: Binding, values: Shape) -> torch.Tensor:
    # One element at least, so that there is an address.
    return torch.tensor([*values] or [0], dtype=binding.dtype)


def _strides(shape: Shape) -> Shape:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides))[: len(shape)]
