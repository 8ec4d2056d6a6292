"""How a module runs its engine, and what can be changed of that: options, CUDA graphs, profiling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from engine.errors import RuntimeUnavailable
from engine.runtime.call_path import CallPath
from engine.runtime.cuda_graphs.cache import GraphCache
from engine.runtime.engines.interpreted_engine import InterpretedEngine
from engine.runtime.options import RunOptions

if TYPE_CHECKING:
    import torch

    from engine.runtime.loaded_engines import LoadedEngines
    from engine.settings import CompilationSettings


class EngineControls(nn.Module):
    """The engines of a `TorchTensorRTModule`, and the path that its calls take to them."""

    name: str
    settings: CompilationSettings
    requires_output_allocator: bool
    _single: bool
    _engines: LoadedEngines
    _interpreted: InterpretedEngine | None = None
    _graphs: GraphCache | None = None
    _path: CallPath

    def _set_engines(self, engines: LoadedEngines, interpreted: InterpretedEngine | None) -> None:
        """Run these from now on; CUDA graphs of others are dropped."""
        self._engines = engines
        self._interpreted = interpreted
        self.set_cuda_graphs(False)

    def run_engine(self, inputs: Sequence[Any]) -> list[torch.Tensor]:
        """Run the engine on real tensors."""
        raise NotImplementedError

    def _result(self, results: Sequence[Any]) -> Any:
        raise NotImplementedError

    def _load(self, index: int) -> Any:
        raise NotImplementedError

    @property
    def options(self) -> RunOptions:
        """How the engine is run: what the settings said, or `configure` since."""
        return self._engines.options

    def configure(self, options: RunOptions) -> None:
        """Run the engine differently from now on, on every device; CUDA graphs of it are dropped.

        Raises:
            SettingsError: the installed TensorRT, or this engine, cannot do what ``options`` ask for.
            RuntimeUnavailable: the engine is interpreted.
        """
        self.require_tensorrt("it has no run options")
        options.check()
        graphs = self._graphs
        self.set_cuda_graphs(False)
        try:
            self._engines.configure(options)
        finally:
            self.set_cuda_graphs(graphs is not None, graphs.size if graphs is not None else None)

    def require_tensorrt(self, otherwise: str) -> None:
        """Raises RuntimeUnavailable where the engine is interpreted; ``otherwise`` says what does not work then."""
        if self._interpreted is not None:
            raise RuntimeUnavailable(f"engine {self.name!r} is interpreted on the CPU: {otherwise}")

    def set_cuda_graphs(self, enabled: bool, size: int | None = None) -> None:
        """Record calls of this engine as CUDA graphs and replay them; or stop that, and drop the graphs.

        Args:
            size: most graphs to keep; by default what ``settings.cuda_graph_cache_size`` says.
        """
        graphs = None
        if enabled and self._interpreted is None:
            graphs = GraphCache(
                self.run_engine,
                name=f"engine {self.name!r}",
                size=size or self.settings.cuda_graph_cache_size,
                static_outputs=self.options.use_pre_allocated_outputs,
                written=self.written_inputs,
                engines=self.loaded_engines,
                finish=self._result,
            )
        self._graphs = graphs
        self._choose_path()

    @property
    def cuda_graphs(self) -> GraphCache | None:
        """The CUDA graphs of this engine alone; None where its calls are not recorded."""
        return self._graphs

    def loaded_engines(self) -> list[Any]:
        """The engines that are loaded now, one for each device."""
        return list(self._engines.values())

    def written_inputs(self) -> frozenset[int]:
        """Positions of inputs that the engine writes to; known where it is loaded."""
        engine = next(iter(self._engines.values()), None)
        return getattr(engine, "written_inputs", frozenset())

    @contextmanager
    def profiled(self, device: int, profiler: Any) -> Iterator[None]:
        """Tell a ``trt.IProfiler`` the time of every layer while the ``with`` block runs.

        The engine runs through Python meanwhile, and without CUDA graphs of its own; calls wait for the GPU.
        """
        self.require_tensorrt("there is nothing to time")
        graphs = self._graphs
        self.set_cuda_graphs(False)
        try:
            with self._engines.profiled(device, profiler):
                self._choose_path()
                yield
        finally:
            self.set_cuda_graphs(graphs is not None, graphs.size if graphs is not None else None)

    def require_output_allocator(self, required: bool) -> None:
        """Let TensorRT ask for the memory of outputs from now on, or not; engines that are loaded are loaded anew."""
        self.require_tensorrt("it allocates as it computes")
        self.requires_output_allocator = required
        self._engines.require_output_allocator(required)
        self.set_cuda_graphs(self._graphs is not None, self._graphs.size if self._graphs is not None else None)

    def offload(self) -> None:
        """Give back the device memory of the engine: weights, workspaces, kernels and CUDA graphs.

        The next call loads it again from its plan, which stays in host memory, and so does `onload`; options and the
        runtime cache (`RunOptions.runtime_cache_path`) stay.  What the engine reads and writes belongs to its callers.
        Waits for the GPU; no other thread may be in a call.  Does nothing where the engine is interpreted.

        Raises:
            RuntimeUnavailable: a CUDA graph that the caller captured holds the engine.
        """
        if self._interpreted is not None:
            return
        graphs = self._graphs
        self.set_cuda_graphs(False)
        # Paths of calls hold the engines.
        self._path = CallPath(self._call_engine)
        try:
            self._engines.offload()
        finally:
            self.set_cuda_graphs(graphs is not None, graphs.size if graphs is not None else None)

    def onload(self) -> None:
        """Load the engine again on the devices that `offload` took it from; one that was on none, where it would run.

        Raises:
            EngineLoadError: TensorRT does not load it, for want of memory for example.
            RuntimeUnavailable: the engine cannot run on this machine.
        """
        if self._interpreted is not None:
            return
        for device in self._engines.offloaded or (-1,):
            self._load(device)

    def trt_engine(self, device: int) -> Any:
        """The ``trt.ICudaEngine`` on a device, to be asked about; with the C++ runtime it is loaded once more."""
        engine = self._load(device)
        python = engine if hasattr(engine, "trt_engine") else self._engines.made(device, self.options, "python")
        return python.trt_engine

    def _choose_path(self) -> None:
        if self._graphs is not None:
            self._path = CallPath.recorded(self._graphs)
        elif len(self._engines) == 1 and not self.options.records_graphs:
            (engine,) = self._engines.values()
            self._path = CallPath.direct(self._call_engine, engine, single=self._single)
        else:
            self._path = CallPath(self._call_engine)

    def _call_engine(self, inputs: Sequence[Any]) -> Any:
        return self._result(self.run_engine(inputs))


__all__ = ["EngineControls"]
