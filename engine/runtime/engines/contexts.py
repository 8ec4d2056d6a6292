"""Execution contexts, made as the options of a run ask for."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

from engine.errors import SettingsError
from engine.runtime.engines.runtime_cache import Configuration, Kernels, cache_file
from engine.runtime.options import RunOptions, unable
from engine.tensorrt import capabilities, load

CAPTURE_SAFE_LOCK = threading.RLock()
"""Held by who records a CUDA graph, of which there may be one at a time in a process, and by who may make a context:
TensorRT may wait for the whole device then, which CUDA forbids while a stream of it is captured.  It is taken before
any lock of an engine."""


def return_free_memory() -> None:
    """Return host memory that contexts freed: glibc keeps most of it by itself."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class ContextMaker:
    """Makes execution contexts of one engine.

    Args:
        engine: a ``trt.ICudaEngine``.
        serialized: the plan that it was loaded from.
        device: CUDA device index.
        profiler: a ``trt.IProfiler`` that hears the time of every layer; the calls then wait for the GPU.

    Raises:
        SettingsError: the installed TensorRT, or this engine, cannot do what an option asks for.
    """

    def __init__(
        self, engine: Any, serialized: bytes | memoryview, device: int, options: RunOptions, profiler: Any = None
    ) -> None:
        options.check()
        self._engine = engine
        self._options = options
        self._profiler = profiler
        self._set_budget(options.weight_streaming_budget)
        strategies = load().ExecutionContextAllocationStrategy
        self._strategy = strategies.USER_MANAGED if options.share_device_memory else strategies.STATIC
        self._kernels: Kernels | None = None
        if options.needs_runtime_config or capabilities().rtx:
            folder = options.runtime_cache_path
            self._kernels = Kernels(cache_file(folder, device, serialized) if folder else None)

    def make(self) -> tuple[Any, Configuration | None]:
        """A new context, and what has to live as long as it; None where TensorRT cannot make one.

        `CAPTURE_SAFE_LOCK` has to be held.
        """
        configuration = None if self._kernels is None else self._configuration(self._kernels)
        if configuration is not None:
            context = self._engine.create_execution_context(configuration.config)
        elif self._options.share_device_memory:
            context = self._engine.create_execution_context(self._strategy)
        else:
            context = self._engine.create_execution_context()
        if context is not None and self._profiler is not None:
            context.profiler = self._profiler
            context.enqueue_emits_profile = True
        if context is not None and configuration is not None and self._kernels is not None:
            self._kernels.keep(configuration)
        return context, configuration

    def _configuration(self, kernels: Kernels) -> Configuration:
        trt, options = load(), self._options
        made = Configuration(self._engine.create_runtime_config())
        made.config.set_execution_context_allocation_strategy(self._strategy)
        if hasattr(made.config, "cuda_graph_strategy"):
            made.config.cuda_graph_strategy = trt.CudaGraphStrategy.__members__[options.cuda_graph_strategy.upper()]
        if hasattr(made.config, "dynamic_shapes_kernel_specialization_strategy"):
            members = trt.DynamicShapesKernelSpecializationStrategy.__members__
            strategy = options.dynamic_shapes_kernel_specialization_strategy if capabilities().specializes else "none"
            chosen = members[strategy.upper()]
            made.config.dynamic_shapes_kernel_specialization_strategy = chosen
        kernels.fill(made)
        if made.cache is not None and not made.config.set_runtime_cache(made.cache):
            raise unable("runtime_cache_path", options.runtime_cache_path, "it does not take the cache")
        return made

    def save_kernels(self) -> None:
        """Write what the contexts compiled to the runtime cache, where there is one."""
        if self._kernels is not None:
            self._kernels.save()

    @property
    def workspace_size(self) -> int:
        """Bytes of scratch memory that one context works with."""
        size = getattr(self._engine, "device_memory_size_v2", None)
        return int(self._engine.device_memory_size if size is None else size)

    def _set_budget(self, budget: int | None) -> None:
        # Asked of the class: to read the budget of an engine without weight streaming is an error in TensorRT's log.
        if not hasattr(type(self._engine), "weight_streaming_budget_v2"):
            return
        streamable = self._engine.streamable_weights_size
        if budget is None:
            if streamable and self._engine.weight_streaming_budget_v2 != streamable:
                self._engine.weight_streaming_budget_v2 = streamable
            return
        if not streamable:
            raise SettingsError(
                f"weight_streaming_budget={budget}: the engine has no weights that can stay in host memory; it has to "
                "be built with enable_weight_streaming=True, by a TensorRT that has it"
            )
        self._engine.weight_streaming_budget_v2 = min(budget, streamable)
        if self._engine.weight_streaming_budget_v2 != min(budget, streamable):
            raise unable("weight_streaming_budget", budget, "it does not take the value")


__all__ = ["CAPTURE_SAFE_LOCK", "ContextMaker", "return_free_memory"]
