"""What an engine module can be told about how it runs: options, CUDA graphs, profiling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from engine.errors import RuntimeUnavailable
from engine.runtime.cuda_graphs.cache import GraphCache
from engine.runtime.engines.interpreted_engine import InterpretedEngine
from engine.runtime.options import RunOptions

if TYPE_CHECKING:
    from engine.runtime.loaded_engines import LoadedEngines
    from engine.settings import CompilationSettings

_PLAIN = frozenset({torch.Tensor, nn.Parameter, int, float, bool})


class ModalModule(nn.Module):
    """The modes of a `TorchTensorRTModule`."""

    name: str
    settings: CompilationSettings
    requires_output_allocator: bool
    _engines: LoadedEngines
    _interpreted: InterpretedEngine | None
    _graphs: GraphCache | None = None
    # The engine's shortest way to run, where one engine is loaded.
    _quick: Callable[[Sequence[Any]], list[torch.Tensor] | None] | None = None

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
        self.require_tensorrt("it has no modes to run in")
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
        self._choose_quick()

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
                self._choose_quick()
                yield
        finally:
            self.set_cuda_graphs(graphs is not None, graphs.size if graphs is not None else None)

    def require_output_allocator(self, required: bool) -> None:
        """Let TensorRT ask for the memory of outputs from now on, or not; engines that are loaded are loaded anew."""
        self.require_tensorrt("it allocates as it computes")
        self.requires_output_allocator = required
        self._engines.require_output_allocator(required)
        self.set_cuda_graphs(self._graphs is not None, self._graphs.size if self._graphs is not None else None)

    def trt_engine(self, device: int) -> Any:
        """The ``trt.ICudaEngine`` on a device, to be asked about; with the C++ runtime it is loaded once more."""
        engine = self._load(device)
        python = engine if hasattr(engine, "trt_engine") else self._engines.made(device, self.options, "python")
        return python.trt_engine

    def _choose_quick(self) -> None:
        self._quick = None
        if len(self._engines) == 1 and self._graphs is None and not self.options.records_graphs:
            ((index, engine),) = self._engines.items()
            self._quick = getattr(engine, "quick", None) or _guarded(engine, index)


def _guarded(engine: Any, index: int) -> Callable[[Sequence[Any]], list[torch.Tensor] | None]:
    """Run an engine, if nobody traces the inputs and the first is on its device."""

    def quick(inputs: Sequence[Any]) -> list[torch.Tensor] | None:
        for value in inputs:
            if type(value) not in _PLAIN:
                return None
        if not inputs or not isinstance(inputs[0], torch.Tensor) or inputs[0].get_device() != index:
            return None
        return engine(inputs)  # type: ignore[no-any-return]

    return quick


__all__ = ["ModalModule"]
