"""Engines on a GPU through the C++ library, which drives TensorRT without its Python bindings."""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib
import json
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from engine.errors import InputError, RecordError, RuntimeUnavailable, SettingsError, TensorRTNotFound
from engine.runtime.engines.bindings import Binding, Shape
from engine.runtime.engines.contexts import CAPTURE_SAFE_LOCK
from engine.runtime.engines.inputs import Input
from engine.runtime.engines.runtime_cache import RuntimeCacheFile, cache_file, warn_of_refusal, write
from engine.runtime.engines.torch_tensorrt_guard import refuse_second_runtime
from engine.runtime.failures import EngineLoadError, ExecutionError
from engine.runtime.options import RunOptions
from engine.storage.unnamed_file import release
from engine.tensorrt import load
from engine.tensorrt.logger import capturing_logger, error_texts

_HERE = Path(__file__).resolve().parent.parent
_LIBRARY = _HERE / "libengine_runtime.so"
_NOTE = _HERE / "native.json"
_REBUILD = "build it with `pip install --no-build-isolation .`"
_SPECIALIZATION = ("lazy", "eager", "none")


@dataclass(frozen=True)
class Library:
    """The C++ library, loaded.

    Attributes:
        path: the shared object: LibTorch programs load the same one.
        native: the Python extension over it.
        not_registered: why ``torch.classes.tensorrt.Engine`` is not this library's; empty where it is.
    """

    path: Path
    native: ModuleType
    not_registered: str


_LOCK = threading.Lock()
_FOUND: list[tuple[Library | None, str]] = []


def load_library() -> Library | None:
    """Load the C++ library, once per process: the class and ops ``tensorrt`` are then registered.

    Returns:
        The library; None where it cannot be loaded, for the reason that `library_problem` returns.
    """
    return _load_once()[0]


def library_problem() -> str:
    """Why the C++ library cannot be loaded; empty where it can."""
    return _load_once()[1]


def library_is_built() -> bool:
    """Whether the package has a C++ library, for this PyTorch or for another one."""
    try:
        return bool(json.loads(_NOTE.read_text(encoding="utf-8")).get("built"))
    except (OSError, ValueError):
        return False


def _load_once() -> tuple[Library | None, str]:
    with _LOCK:
        if not _FOUND:
            try:
                _FOUND.append((_load(), ""))
            except _MissingError as missing:
                _FOUND.append((None, str(missing)))
        return _FOUND[0]


class _MissingError(Exception):
    """The library cannot be loaded."""


def _load() -> Library:
    try:
        note = json.loads(_NOTE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise _MissingError(f"the C++ library is not built: {_REBUILD}") from None
    if not note.get("built"):
        raise _MissingError(f"the C++ library is not built: {note.get('reason')}")
    built, here = (version.split("+")[0].split(".")[:2] for version in (note["torch"], torch.__version__))
    if built != here:
        raise _MissingError(
            f"the C++ library was built against PyTorch {note['torch']}, this is {torch.__version__}: {_REBUILD}"
        )
    try:
        torch.ops.load_library(str(_LIBRARY))
        native = importlib.import_module("engine.runtime._native")
    except (OSError, ImportError, RuntimeError) as error:
        raise _MissingError(f"the C++ library does not load: {error}") from None
    registration = ctypes.CDLL(str(_LIBRARY)).engine_runtime_registration
    registration.restype = ctypes.c_char_p
    native.set_failure_factory(_failure)
    native.set_log(_begin, _finish, _recent)
    native.set_capture_safe_lock(CAPTURE_SAFE_LOCK)
    # Programs and packages that PyTorch loads call the op without any module of this package.
    native.set_library_finder(cpp_problem)
    not_registered = registration().decode()
    if not not_registered:
        refuse_second_runtime()
    return Library(_LIBRARY, native, not_registered)


@functools.cache
def open_tensorrt() -> str:
    """Give the TensorRT library that Python uses to the C++ library; returns the name of its layout.

    Raises:
        RuntimeUnavailable: there is no C++ library, or it does not know this TensorRT.
        TensorRTNotFound: no TensorRT is installed.
    """
    library = load_library()
    if library is None:
        raise RuntimeUnavailable(library_problem())
    trt = load()
    # TensorRT has one logger per process, the first one: this makes it Python's, which builds need.
    _KEPT.append(trt.Runtime(_LOGGER()))
    major = trt.__version__.split(".")[0]
    name = "libtensorrt_rtx.so" if trt.__name__.startswith("tensorrt_rtx") else "libnvinfer.so"
    _, _, layout = library.native.use_library(f"{name}.{major}")
    return str(layout)


_KEPT: list[Any] = []
# Asked for once: asking clears what the calling thread has captured.
_LOGGER = functools.cache(capturing_logger)


def cpp_problem() -> str:
    """Why engines cannot be run by C++ with the installed TensorRT; empty where they can, given a GPU."""
    try:
        open_tensorrt()
    except (RuntimeUnavailable, TensorRTNotFound) as error:
        return str(error)
    return ""


class CppEngine:
    """A deserialised engine on one GPU, run by C++; called as a `TRTEngine` is.

    Args:
        serialized: the plan.
        device: CUDA device index.
        inputs: input binding names, in calling order.
        outputs: output binding names, in the order of the results; None for both takes the engine's order.
        requires_output_allocator: let TensorRT ask for memory for every output while it runs.
        options: how to run it.
        contexts: the most execution contexts to make for calls that overlap.

    Raises:
        EngineLoadError: TensorRT rejected the plan, or could not make an execution context for it.
        RuntimeUnavailable: C++ cannot run engines here, or the binding names are not the engine's.
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
    ) -> None:
        open_tensorrt()
        options.check()
        library = load_library()
        assert library is not None
        self.name = name
        self.device = torch.device("cuda", device)
        self.options = options
        self._serialized = serialized
        file = self._cache_file(options)
        given = _native_options(options, file)
        with CAPTURE_SAFE_LOCK:
            self._native = library.native.NativeEngine(
                serialized,
                device,
                list(inputs or ()),
                list(outputs or ()),
                name,
                requires_output_allocator,
                given,
                contexts,
            )
        release(serialized)
        self._run = self._native.run
        # A run of plain tensors on this device; None for any other call. Without a Python function around it.
        self.try_run: Callable[[Sequence[Input]], list[torch.Tensor] | None] = self._native.try_run
        found_inputs, found_outputs = self._native.bindings()
        self.inputs = [_binding(*each) for each in found_inputs]
        self.outputs = [_binding(*each) for each in found_outputs]
        names = [binding.name for binding in self.inputs]
        self.written_inputs = frozenset(names.index(each[-1]) for each in found_outputs if each[-1])
        self._keep_cache(file)

    def __call__(self, inputs: Sequence[Input]) -> list[torch.Tensor]:
        """Queue one run on the current stream.

        Raises:
            InputError: an input has the wrong dtype, device or shape.
            ExecutionError: TensorRT did not run the engine.
        """
        return self._run(inputs)  # type: ignore[no-any-return]

    def output_shapes(self, shapes: Sequence[Shape]) -> list[Shape | None]:
        """Output shapes for inputs of given shapes, without a run; None for a shape found while running.

        Raises:
            InputError: the engine does not take such shapes, or has host inputs: their values decide.
        """
        return [None if shape is None else tuple(shape) for shape in self._native.output_shapes(list(shapes))]

    def configure(self, options: RunOptions) -> None:
        """Run differently from now on; waits for calls that are under way.

        Raises:
            SettingsError: this TensorRT, or this engine, cannot do what ``options`` ask for.
        """
        options.check()
        file = self._cache_file(options)
        given = _native_options(options, file)
        with CAPTURE_SAFE_LOCK:
            self._native.configure(given)
        self.options = options
        self._keep_cache(file)

    def take_captured(self) -> list[int]:
        """The contexts that CUDA graphs captured since this was asked last; for `release_captured`."""
        return list(self._native.take_captured())

    def release_captured(self, captured: Sequence[int]) -> None:
        """Take back contexts whose CUDA graph is gone."""
        self._native.release_captured(list(captured))

    @property
    def contexts(self) -> int:
        """Execution contexts that were made, without those of captured graphs."""
        return int(self._native.counts()[0])

    @property
    def shape_bindings(self) -> int:
        """Shape signatures that were met."""
        return int(self._native.counts()[1])

    @property
    def captured(self) -> bool:
        """Whether a CUDA graph holds contexts."""
        return bool(self._native.counts()[2])

    def save_kernels(self) -> None:
        """Write what was compiled to the runtime cache, where there is one."""
        file = self._cache_file(self.options)
        if file is not None:
            _save_cache(weakref.ref(self), file)

    def time_enqueue(self, calls: int) -> float:
        """Queue the last run of the current stream ``calls`` times more; returns host microseconds per call."""
        return float(self._native.time_enqueue(calls)) / 1000

    def _cache_file(self, options: RunOptions) -> RuntimeCacheFile | None:
        folder = options.runtime_cache_path
        return cache_file(folder, self.device.index, self._serialized) if folder else None

    def _keep_cache(self, file: RuntimeCacheFile | None) -> None:
        found = self._native.runtime_cache()
        if file is None or found is None:
            return
        if found[1]:
            warn_of_refusal(file)
        write(file, found[0])
        # Kernels for the shapes of calls are compiled in the background: the last of them are saved at the end.
        atexit.register(_save_cache, weakref.ref(self), file)


def _binding(
    name: str, dtype: torch.dtype, shape: list[int], host: bool, shapes: Any, values: Any, alias: str
) -> Binding:
    def bounds(profile: Any) -> Any:
        low, best, high = (tuple(each) for each in profile)
        return low, best, high

    return Binding(
        name,
        dtype,
        tuple(shape),
        host,
        tuple(map(bounds, shapes)),
        tuple(bounds(profile) if any(profile) else () for profile in values),
    )


def _native_options(options: RunOptions, file: RuntimeCacheFile | None) -> tuple[Any, ...]:
    return (
        options.use_pre_allocated_outputs,
        options.share_device_memory,
        options.cuda_graph_strategy == "whole_graph_capture",
        _SPECIALIZATION.index(options.dynamic_shapes_kernel_specialization_strategy),
        options.weight_streaming_budget,
        options.runtime_cache_path,
        (file.read() if file is not None else None) or b"",
    )


def _save_cache(engine: weakref.ref[CppEngine], file: RuntimeCacheFile) -> None:
    owner = engine()
    found = None if owner is None else owner._native.runtime_cache()
    if found is not None:
        write(file, found[0])


def _failure(kind: int, whole: str, text: str, messages: list[str]) -> Exception:
    """The exception for a failure of C++; ``kind`` counts as ``FailureKind`` does."""
    if kind == 1:
        return EngineLoadError(text, messages)
    classes = {0: InputError, 2: ExecutionError, 3: RuntimeUnavailable, 4: RecordError, 5: SettingsError}
    return classes[kind](whole)


def _begin() -> Any:
    gathering = _LOGGER().gather()
    return gathering, gathering.__enter__()


def _finish(token: Any) -> list[str]:
    gathering, messages = token
    gathering.__exit__(None, None, None)
    return error_texts(messages)


def _recent() -> list[str]:
    return _LOGGER().recent_errors()


__all__ = ["CppEngine", "Library", "cpp_problem", "library_problem", "load_library", "open_tensorrt"]
