"""The engines of one module: one for each CUDA device, loaded when it is first needed."""

from __future__ import annotations

import dataclasses
import gc
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from engine.errors import RuntimeUnavailable
from engine.runtime.engines.contexts import CAPTURE_SAFE_LOCK
from engine.runtime.engines.python_engine import TRTEngine
from engine.runtime.options import RunOptions
from engine.runtime.selection import Selection


class LoadedEngines(dict[int, Any]):
    """CUDA device index -> loaded engine.

    Args:
        serialized: the plan.
        inputs, outputs: binding names, in calling order.
        selection: the path to take; one that cannot do what is asked is replaced by the Python path, with the reason.
    """

    def __init__(
        self,
        serialized: bytes | memoryview,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        name: str,
        requires_output_allocator: bool,
        selection: Selection,
        options: RunOptions,
    ) -> None:
        super().__init__()
        self.selection = selection
        self.options = options
        self.requires_output_allocator = requires_output_allocator
        self._serialized = serialized
        self._names = list(inputs), list(outputs)
        self._name = name
        self._lock = threading.RLock()
        # The devices of what was offloaded last.
        self.offloaded: tuple[int, ...] = ()

    def load(self, device: int) -> Any:
        """The engine on a device, loaded if it is not.

        Raises:
            EngineLoadError: TensorRT does not load it.
        """
        engine = self.get(device)
        if engine is None:
            with self._alone():
                engine = self.get(device)
                if engine is None:
                    engine = self[device] = self.made(device, self.options, self.selection.runtime)
        return engine

    def configure(self, options: RunOptions) -> None:
        """Run differently from now on; see `TRTEngine.configure`."""
        with self._alone():
            for device, engine in list(self.items()):
                try:
                    engine.configure(options)
                except RuntimeUnavailable as error:
                    if isinstance(engine, TRTEngine):
                        raise
                    self[device] = self._fallen_back(device, options, error)
            self.options = options

    def require_output_allocator(self, required: bool) -> None:
        """Let TensorRT ask for the memory of outputs from now on, or not: the engines are loaded anew."""
        with self._alone():
            if required != self.requires_output_allocator:
                self.requires_output_allocator = required
                for device in list(self):
                    self[device] = self.made(device, self.options, self.selection.runtime)

    def offload(self) -> None:
        """Destroy what is loaded, when the GPU is done with it; `load` loads it again from the plan.

        Raises:
            RuntimeUnavailable: a CUDA graph that was captured of calls would replay with memory that is gone.
        """
        with self._alone():
            if not self:
                return
            for device in self:
                torch.cuda.synchronize(device)
            if any(engine.captured for engine in self.values()):
                gc.collect()  # graphs that nobody has any more
            if any(engine.captured for engine in self.values()):
                raise RuntimeUnavailable(
                    f"engine {self._name!r} is in use by a CUDA graph that was captured of its calls: delete it first"
                )
            for engine in self.values():
                engine.save_kernels()
            self.offloaded = tuple(self)
            del engine
            self.clear()
            # Engines, pools and contexts know each other; until Python looks for that, their memory is theirs.
            gc.collect()
            torch.cuda.empty_cache()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        # In this order: who records a CUDA graph holds the first, and may have to load an engine.
        with CAPTURE_SAFE_LOCK, self._lock:
            yield

    @contextmanager
    def profiled(self, device: int, profiler: Any) -> Iterator[None]:
        """Tell a ``trt.IProfiler`` of every layer on a device; the engine runs through Python meanwhile."""
        before = self.load(device)
        python = before if isinstance(before, TRTEngine) else self.made(device, self.options, "python")
        python.configure(self.options, profiler)
        self[device] = python
        try:
            yield
        finally:
            python.configure(self.options)
            self[device] = before

    def made(self, device: int, options: RunOptions, runtime: str) -> Any:
        """Load an engine once more; ``runtime`` is ``"cpp"`` or ``"python"``."""
        given: dict[str, Any] = {
            "name": self._name,
            "requires_output_allocator": self.requires_output_allocator,
            "options": options,
        }
        if runtime == "cpp":
            from engine.runtime.engines.cpp_engine import CppEngine

            try:
                return CppEngine(self._serialized, device, *self._names, **given)
            except RuntimeUnavailable as error:
                return self._fallen_back(device, options, error)
        return TRTEngine(self._serialized, device, *self._names, **given)

    def _fallen_back(self, device: int, options: RunOptions, error: RuntimeUnavailable) -> Any:
        engine = self.made(device, options, "python")
        reason = f"the C++ runtime cannot do what was asked: {error}"
        self.selection = dataclasses.replace(self.selection, runtime="python", reason=reason)
        return engine


__all__ = ["LoadedEngines"]
