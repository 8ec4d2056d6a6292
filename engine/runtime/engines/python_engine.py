"""An engine on one GPU, run through TensorRT's Python bindings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any

import torch

from engine.errors import InputError, RuntimeUnavailable
from engine.runtime.boundary import check_count
from engine.runtime.engines.bindings import Shape, binding_names, read_bindings
from engine.runtime.engines.context_pool import ContextPool, PooledContext, ShapeBinding, set_workspace
from engine.runtime.engines.contexts import CAPTURE_SAFE_LOCK, ContextMaker, return_free_memory
from engine.runtime.engines.inputs import MISALIGNED, Input, InputReader
from engine.runtime.engines.limits import MAX_CONTEXTS_PER_STREAM, MAX_REBINDS, MAX_SHAPE_BINDINGS, SMALL_WORKSPACE
from engine.runtime.engines.outputs import OutputMaker
from engine.runtime.engines.runtime_cache import Configuration
from engine.runtime.engines.shape_binder import ShapeBinder
from engine.runtime.engines.workspace import workspace_of
from engine.runtime.failures import EngineLoadError, ExecutionError, quoted
from engine.runtime.options import RunOptions
from engine.storage.unnamed_file import release
from engine.tensorrt import capabilities, load
from engine.tensorrt.logger import capturing_logger, error_texts

_TENSORS = frozenset({torch.Tensor, torch.nn.Parameter})


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
        options: how to run it; see `configure`.
        contexts: the most execution contexts to make for calls that overlap.
        layer_names: names to look for in TensorRT's messages when loading fails.

    Raises:
        EngineLoadError: TensorRT rejected the plan, or could not make an execution context for it.
        RuntimeUnavailable: the binding names are not the engine's.
        SettingsError: this TensorRT, or this engine, cannot do what ``options`` ask for.
    """

    def __init__(
        self,
        serialized: bytes | memoryview,
        device: int,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        *,
        name: str = "",
        requires_output_allocator: bool = False,
        options: RunOptions = RunOptions(),  # noqa: B008 - immutable
        contexts: int = 8,
        layer_names: Collection[str] = (),
    ) -> None:
        self.name = name
        self.device = torch.device("cuda", device)
        self.options = options
        self._index = device
        self._limit = contexts
        self._logger = capturing_logger()
        with torch.cuda.device(device), CAPTURE_SAFE_LOCK, self._logger.gather() as messages:
            # Stands for the memory of tensors without elements, as TensorRT takes no null address.
            # Made first: it makes CUDA's context on the device, which TensorRT then uses.
            self._scratch = torch.empty(512, dtype=torch.uint8, device=self.device)
            self._runtime = load().Runtime(self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(serialized)
            if self._engine is None:
                raise EngineLoadError(f"{self._called()} does not load", error_texts(messages), layer_names)
            release(serialized)
            self._serialized = serialized
            self._maker = ContextMaker(self._engine, serialized, device, options)
            context, configuration = self._maker.make()
            if context is None:
                raise EngineLoadError(
                    f"TensorRT loads {self._called()} and cannot prepare it to run", error_texts(messages), layer_names
                )
        own = binding_names(self._engine)
        self.inputs, self.outputs = read_bindings(
            self._engine, own[0] if inputs is None else inputs, own[1] if outputs is None else outputs
        )
        self._aliases = self._read_aliases()
        self._profiles: int = self._engine.num_optimization_profiles
        self._reader = InputReader(self.inputs, self._aliases, self.device)
        self._binder = ShapeBinder(
            self.inputs,
            self.outputs,
            self._aliases,
            allocate_all=requires_output_allocator,
            called=self._called(),
            logger=self._logger,
        )
        # None for a host input, whose values count.
        self._dtypes = [None if binding.host else binding.dtype for binding in self.inputs]
        self._count = len(self.inputs)
        self._device_positions = [i for i, binding in enumerate(self.inputs) if not binding.host]
        self._device_names = [self.inputs[i].name for i in self._device_positions]
        self._output_names = [binding.name for binding in self.outputs]
        self._has_host_inputs = len(self._device_positions) < len(self.inputs)
        self._scratch_address = self._scratch.data_ptr()
        self._output_maker = OutputMaker(self.outputs, self._aliases, self.device)
        self._empty = self._output_maker.empty
        self._raw_stream: Callable[[int], int] = torch._C._cuda_getCurrentRawStream
        self._current_device: Callable[[], int] = torch._C._cuda_getDevice
        self._is_capturing: Callable[[], bool] = torch._C._cuda_isCurrentStreamCapturing
        self._wears = capabilities().rtx
        self._bindings_lock = threading.Lock()
        self._start(context, configuration)

    def _start(self, context: Any, configuration: Configuration | None) -> None:
        """Begin with a first context, no shape bindings, and the options as they are now."""
        self._workspace_size = self._maker.workspace_size
        small = self.options.share_device_memory or self._workspace_size <= SMALL_WORKSPACE
        self._keeps_outputs = self.options.use_pre_allocated_outputs
        self._shape_bindings: dict[Hashable, ShapeBinding] = {}
        self._pool = ContextPool(self._new_context, self._index, self._limit, MAX_CONTEXTS_PER_STREAM if small else 1)
        self._pool.add(self._pooled(context, configuration))

    def configure(self, options: RunOptions, profiler: Any = None) -> None:
        """Run differently from now on; calls that are under way end as they began.

        Args:
            profiler: a ``trt.IProfiler`` that hears the time of every layer; calls then wait for the GPU.

        Raises:
            SettingsError: this TensorRT, or this engine, cannot do what ``options`` ask for.
            RuntimeUnavailable: a CUDA graph holds the engine's contexts, and the weight budget cannot change.
        """
        with (
            torch.cuda.device(self._index),
            CAPTURE_SAFE_LOCK,
            self._bindings_lock,
            self._logger.gather() as messages,
        ):
            options.check()
            if options.weight_streaming_budget != self.options.weight_streaming_budget:
                # TensorRT moves weights only while nothing is prepared to run with them.
                if self._pool.captured or not self._pool.drain():
                    raise RuntimeUnavailable(
                        f"{self._called()} is in use by a CUDA graph or by calls: its weight budget cannot change now"
                    )
                torch.cuda.synchronize(self._index)
                self._shape_bindings = {}
            before = self.options, self._maker
            try:
                self._maker = ContextMaker(self._engine, self._serialized, self._index, options, profiler)
                context, configuration = self._maker.make()
                if context is None:
                    raise ExecutionError(
                        f"TensorRT cannot make a context for {self._called()}" + quoted(error_texts(messages))
                    )
                self.options = options
            except BaseException:
                self.options, self._maker = before
                if not len(self._pool):
                    self._maker = ContextMaker(self._engine, self._serialized, self._index, self.options)
                    self._start(*self._maker.make())
                raise
            self._start(context, configuration)

    @property
    def trt_engine(self) -> Any:
        """The ``trt.ICudaEngine``."""
        return self._engine

    @property
    def captured(self) -> bool:
        """Whether a CUDA graph holds contexts."""
        return self._pool.captured > 0

    def save_kernels(self) -> None:
        """Write what was compiled to the runtime cache, where there is one."""
        self._maker.save_kernels()

    @property
    def written_inputs(self) -> frozenset[int]:
        """Positions of the inputs that the engine writes to; the outputs aliased to them are not fresh."""
        return frozenset(self._aliases.values())

    def __call__(self, inputs: Sequence[Input]) -> list[torch.Tensor]:
        """Queue one run on the current stream.

        Raises:
            InputError: an input has the wrong dtype, device or shape.
            ExecutionError: TensorRT did not run the engine.
        """
        results = self.try_run(inputs)
        if results is not None:
            return results
        if self._current_device() != self._index:
            with torch.cuda.device(self._index):
                return self._run(inputs)
        return self._run(inputs)

    def try_run(self, inputs: Sequence[Input]) -> list[torch.Tensor] | None:
        """A run of inputs that can be bound as they are, of shapes that were met before; None for any other call.

        Raises:
            ExecutionError: TensorRT did not run the engine.
        """
        index = self._index
        if len(inputs) != self._count or self._current_device() != index:
            return None
        key: list[Hashable] = []
        addresses: list[int] = []
        for value, dtype in zip(inputs, self._dtypes):  # noqa: B905 - checked above, and every call runs this
            if dtype is None:
                if type(value) is not int:
                    return None
                key.append(value)
                continue
            if (
                type(value) not in _TENSORS
                or value.dtype is not dtype  # type: ignore[union-attr]
                or not value.is_contiguous()  # type: ignore[union-attr]
                or value.get_device() != index  # type: ignore[union-attr]
            ):
                return None
            address = value.data_ptr()  # type: ignore[union-attr]
            if not address or address & MISALIGNED:
                return None
            key.append(value.shape)  # type: ignore[union-attr]
            addresses.append(address)
        bound = self._shape_bindings.get(tuple(key))
        if bound is None or not bound.plain:
            return None
        stream = self._raw_stream(index)
        if self._is_capturing():
            # The graph keeps the context: nothing else may find it.
            pooled = self._taken(stream, bound)
        else:
            try:
                pooled = bound.contexts[stream].pop()
            except (KeyError, IndexError):
                pooled = self._taken(stream, bound)
        return self._plain_run(pooled, bound, addresses, stream)

    def _taken(self, stream: int, bound: ShapeBinding) -> PooledContext:
        """A context that is set up for these shapes."""
        pooled = self._pool.take(stream, bound)
        if pooled.rebound >= MAX_REBINDS and self._wears and not pooled.retired:
            with CAPTURE_SAFE_LOCK:
                self._pool.discard(pooled)
                del pooled
                return_free_memory()
            pooled = self._pool.take(stream, bound)
        if pooled.bound is not bound:
            try:
                self._bind(pooled, bound)
            except BaseException:
                pooled.forget()
                self._pool.give(pooled)
                raise
        return pooled

    def _plain_run(
        self, pooled: PooledContext, bound: ShapeBinding, addresses: list[int], stream: int
    ) -> list[torch.Tensor]:
        try:
            if pooled.addresses != addresses:
                self._set_inputs(pooled, addresses)
            kept = pooled.kept
            if kept is not None and kept[0] is bound:
                results = [*kept[1]]
            else:
                empty = self._empty
                results = [empty(*output) for output in bound.outputs]  # type: ignore[misc]
                given = pooled.output_addresses
                for position, result in enumerate(results):
                    address = result.data_ptr() or self._scratch_address
                    if given[position] != address:
                        pooled.set_address(self._output_names[position], address)
                        given[position] = address
                if self._keeps_outputs:
                    pooled.kept = bound, [*results]
            memory = None if pooled.workspace is None else set_workspace(pooled, self._workspace_size, self.device)
            if not pooled.execute(stream):
                raise self._failed()
            del memory
            return results
        except BaseException:
            pooled.forget()
            raise
        finally:
            if not pooled.retired:
                pooled.home.append(pooled)

    def _set_inputs(self, pooled: PooledContext, addresses: list[int]) -> None:
        before = pooled.addresses or [0] * len(addresses)
        pooled.addresses = []
        for name, address, old in zip(self._device_names, addresses, before, strict=True):
            if address != old:
                pooled.set_address(name, address)
        pooled.addresses = addresses

    def _failed(self) -> ExecutionError:
        return ExecutionError(f"{self._called()} did not run" + quoted(self._logger.recent_errors()[-5:]))

    def output_shapes(self, shapes: Sequence[Shape]) -> list[Shape | None]:
        """Output shapes for inputs of given shapes, without a run; None for a shape found while running.

        Raises:
            InputError: the engine does not take such shapes, or has host inputs: their values decide.
        """
        if self._has_host_inputs:
            raise InputError(f"{self._called()} computes output shapes from values of its inputs")
        shapes = tuple(map(tuple, shapes))
        with torch.cuda.device(self._index):
            bound = self._bound(shapes, shapes, ())
        return [None if output is None else output[0] for output in bound.outputs]

    def _run(self, inputs: Sequence[Input]) -> list[torch.Tensor]:
        if len(inputs) != self._count:
            check_count(inputs, [binding.name for binding in self.inputs])
        tensors, key, values = self._reader.read(inputs)
        bound = self._shape_bindings.get(key)
        if bound is None:
            bound = self._bound(key, [tensor.shape for tensor in tensors], values)
        if not bound.computes:
            return self._output_maker.make(bound, tensors)
        addresses = [tensors[i].data_ptr() or self._scratch_address for i in self._device_positions]
        stream = self._raw_stream(self._index)
        pooled = self._taken(stream, bound)
        if bound.plain:
            return self._plain_run(pooled, bound, addresses, stream)
        try:
            self._set_inputs(pooled, addresses)
            results = self._output_maker.make(bound, tensors)
            for i, result in enumerate(results):
                if result is not None:
                    pooled.set_address(self._output_names[i], result.data_ptr() or self._scratch_address)
            memory = set_workspace(pooled, self._workspace_size, self.device)
            if not pooled.execute(stream):
                raise self._failed()
            del memory
            self._output_maker.collect(pooled, bound, results)
            return results
        except BaseException:
            pooled.forget()
            raise
        finally:
            self._pool.give(pooled)

    def _bound(self, key: Hashable, shapes: Sequence[Shape], values: Sequence[Shape]) -> ShapeBinding:
        with CAPTURE_SAFE_LOCK, self._bindings_lock:
            bound = self._shape_bindings.get(key)
            if bound is None:
                bound = self._make_binding(key, shapes, values)
                while len(self._shape_bindings) >= MAX_SHAPE_BINDINGS:
                    del self._shape_bindings[next(iter(self._shape_bindings))]
                self._shape_bindings[key] = bound
        return bound

    def _make_binding(self, key: Hashable, shapes: Sequence[Shape], values: Sequence[Shape]) -> ShapeBinding:
        bound = self._binder.start(key, shapes, values)
        pooled = self._pool.take(self._raw_stream(self._index), None)
        try:
            self._bind(pooled, bound)
            self._binder.finish(bound, pooled.context)
            self._output_maker.set_allocators(pooled, bound)
        except BaseException:
            pooled.forget()
            raise
        finally:
            self._pool.give(pooled)
        return bound

    def _bind(self, pooled: PooledContext, bound: ShapeBinding) -> None:
        pooled.bind(bound, self.inputs, self._profiles)
        self._output_maker.set_allocators(pooled, bound)

    def _new_context(self) -> PooledContext:
        with self._logger.gather() as messages:
            context, configuration = self._maker.make()
            if context is None:
                raise ExecutionError(
                    f"TensorRT cannot make {len(self._pool) + 1} execution contexts for {self._called()}"
                    + quoted(error_texts(messages))
                )
        return self._pooled(context, configuration)

    def _pooled(self, context: Any, configuration: Configuration | None) -> PooledContext:
        pooled = PooledContext(context, len(self.outputs), configuration)
        for i, binding in enumerate(self.outputs):
            if binding.host:
                pooled.host_outputs[i] = memory = torch.zeros(binding.shape, dtype=binding.dtype)
                context.set_tensor_address(binding.name, memory.data_ptr())
        if self.options.share_device_memory:
            pooled.workspace = workspace_of(self._index, -1)
        return pooled

    def _read_aliases(self) -> dict[int, int]:
        names = [binding.name for binding in self.inputs]
        find = getattr(self._engine, "get_aliased_input_tensor", lambda name: None)
        found = {i: find(binding.name) for i, binding in enumerate(self.outputs)}
        return {i: names.index(name) for i, name in found.items() if name}

    def _called(self) -> str:
        return f"engine {self.name!r}" if self.name else "the engine"
