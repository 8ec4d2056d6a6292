"""Run options as context managers: a module runs with them inside the ``with`` block, and as before after it.

Each takes a compiled module, one engine, or any module that holds some; each has a setting of
:class:`engine.CompilationSettings` that turns it on from the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from engine.errors import RuntimeUnavailable, SettingsError
from engine.runtime.module import TorchTensorRTModule
from engine.runtime.options import RunOptions, graph_options
from engine.runtime.whole_graphs import engines_of

Module = TypeVar("Module", bound=nn.Module)


@contextmanager
def enable_cudagraphs(module: Module, *, per_engine: bool = False, cache_size: int | None = None) -> Iterator[Module]:
    """Record calls as CUDA graphs and replay them.

    A compiled module becomes one graph, with all of its engines and what PyTorch runs between them.  The graphs are
    dropped at the end.

    Args:
        per_engine: one graph for each engine instead; what PyTorch runs in between is launched as usual.
        cache_size: most graphs to keep, by shapes of the inputs; by default the setting ``cuda_graph_cache_size``.

    Raises:
        RuntimeUnavailable: the module has no engines, or they are interpreted.
    """
    engines = _engines(module)
    with _configured(engines, graph_options), ExitStack() as stack:
        for part in engines if per_engine else _graphed(module):
            before = part.cuda_graphs
            stack.callback(part.set_cuda_graphs, before is not None, None if before is None else before.size)
            part.set_cuda_graphs(True, cache_size)
        yield module


@contextmanager
def enable_pre_allocated_outputs(module: Module) -> Iterator[Module]:
    """Results lie in memory that is kept for each shape: the next call of the module overwrites them.

    Raises:
        RuntimeUnavailable: the module has no engines, or they are interpreted.
    """
    with runtime_config(module, use_pre_allocated_outputs=True):
        yield module


@contextmanager
def enable_output_allocator(module: Module) -> Iterator[Module]:
    """TensorRT asks for the memory of every output while it runs, instead of being given it.

    Outputs whose size depends on values are allocated like that in any case.  Engines that are loaded are loaded
    again, at both ends of the ``with`` block.

    Raises:
        RuntimeUnavailable: the module has no engines, or they are interpreted.
    """
    engines = _engines(module)
    before = [engine.requires_output_allocator for engine in engines]
    try:
        for engine in engines:
            engine.require_output_allocator(True)
        yield module
    finally:
        for engine, required in zip(engines, before, strict=True):
            engine.require_output_allocator(required)


@contextmanager
def runtime_config(module: Module, **options: Any) -> Iterator[Module]:
    """Run the engines of a module with other `engine.runtime.RunOptions`.

    Raises:
        RuntimeUnavailable: the module has no engines, or they are interpreted.
        SettingsError: there is no such option, or the installed TensorRT, or an engine, cannot do it.
    """
    known = RunOptions.__dataclass_fields__
    for name in options:
        if name not in known:
            raise SettingsError(f"there is no option {name!r}; there are {', '.join(known)}")
    with _configured(_engines(module), lambda before: before.replace(**options)), _rebuilt(module):
        yield module


class WeightStreaming:
    """How much of the weights of a module's engines is kept on the GPU.

    Attributes:
        total_device_budget: bytes of all weights that can stay in host memory.
    """

    def __init__(self, engines: list[TorchTensorRTModule], device: int) -> None:
        self._engines = engines
        self._streamable = [_trt_engine(engine, device).streamable_weights_size for engine in engines]
        self._automatic = [_trt_engine(engine, device).get_weight_streaming_automatic_budget() for engine in engines]
        self.total_device_budget = sum(self._streamable)
        if not self.total_device_budget:
            raise RuntimeUnavailable(
                "the module's engines have no weights that can stay in host memory: compile with "
                "enable_weight_streaming=True, and a TensorRT that has it"
            )

    @property
    def device_budget(self) -> int:
        """Bytes of those weights that may be kept on the GPU; setting it shares them out over the engines."""
        budgets = (engine.options.weight_streaming_budget for engine in self._engines)
        sizes = zip(budgets, self._streamable, strict=True)
        return sum(size if budget is None else min(budget, size) for budget, size in sizes)

    @device_budget.setter
    def device_budget(self, budget: int) -> None:
        if not isinstance(budget, int) or isinstance(budget, bool) or budget < 0:
            raise SettingsError(f"device_budget is a number of bytes, not {budget!r}")
        for engine, size in zip(self._engines, self._streamable, strict=True):
            if size:
                share = min(size, budget * size // self.total_device_budget)
                engine.configure(engine.options.replace(weight_streaming_budget=share))

    def get_automatic_weight_streaming_budget(self) -> int:
        """The budget that TensorRT would choose for the memory that is free now, in bytes."""
        return sum(self._automatic)


@contextmanager
def weight_streaming(module: nn.Module) -> Iterator[WeightStreaming]:
    """Choose how much of the weights is kept on the GPU, by setting ``device_budget`` of what this yields.

    Raises:
        RuntimeUnavailable: no engine was built with ``enable_weight_streaming``, or TensorRT has none of it.
    """
    engines = _engines(module)
    with _configured(engines, lambda before: before):
        yield WeightStreaming(engines, torch.cuda.current_device())


def _engines(module: nn.Module) -> list[TorchTensorRTModule]:
    engines = list(engines_of(module))
    if not engines:
        raise RuntimeUnavailable(f"the {type(module).__name__} has no engines: nothing of it runs in TensorRT")
    for engine in engines:
        engine.require_tensorrt("it has no run options")
    return engines


def _graphed(module: nn.Module) -> list[Any]:
    """The outermost parts of a module that can be recorded whole."""
    if hasattr(module, "set_cuda_graphs"):
        return [module]
    return [part for child in module.children() for part in _graphed(child)]


@contextmanager
def _rebuilt(module: nn.Module) -> Iterator[None]:
    """Record the graphs of whole modules anew, as the options of their engines are now, and again at the end."""

    def again() -> None:
        for part in _graphed(module):
            if part.cuda_graphs is not None:
                part.set_cuda_graphs(True, part.cuda_graphs.size)

    again()
    try:
        yield
    finally:
        again()


@contextmanager
def _configured(engines: list[TorchTensorRTModule], change: Any) -> Iterator[None]:
    before = [engine.options for engine in engines]
    try:
        for engine, options in zip(engines, before, strict=True):
            changed = change(options)
            if changed != options:
                engine.configure(changed)
        yield
    finally:
        for engine, options in zip(engines, before, strict=True):
            if engine.options != options:
                engine.configure(options)


def _trt_engine(module: TorchTensorRTModule, device: int) -> Any:
    """The engine as TensorRT's Python bindings have it, also where the C++ runtime runs it."""
    return module.trt_engine(device)


__all__ = [
    "WeightStreaming",
    "enable_cudagraphs",
    "enable_output_allocator",
    "enable_pre_allocated_outputs",
    "runtime_config",
    "weight_streaming",
]
