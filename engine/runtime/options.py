"""How loaded engines are run: the options of a run, and whether the installed TensorRT has them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import SettingsError
from engine.tensorrt import capabilities, load

if TYPE_CHECKING:
    from engine.settings import CompilationSettings


@dataclass(frozen=True)
class RunOptions:
    """The options that a loaded engine runs with; every default is "off".

    Attributes:
        use_pre_allocated_outputs: results lie in memory that is kept, so the next call overwrites them.
        cuda_graph_strategy: ``"disabled"``, or ``"whole_graph_capture"``: TensorRT-RTX records and replays
            a CUDA graph of its own for each shape.
        dynamic_shapes_kernel_specialization_strategy: when TensorRT-RTX compiles kernels for the very shapes
            of a call: ``"lazy"`` (meanwhile, in the background), ``"eager"`` (before the call runs), ``"none"``.
            Where such kernels are known to be wrong (RTX 1.4), ``"lazy"`` runs those for all shapes as ``"none"`` does,
            and ``"eager"`` is an error.
        runtime_cache_path: folder in which TensorRT-RTX keeps the kernels that it compiled; ``""``: nowhere.
        weight_streaming_budget: most bytes of weights to keep on the GPU, of an engine that was built with
            ``enable_weight_streaming``; None: all of them.
        share_device_memory: engines on one stream take turns with one workspace.
    """

    use_pre_allocated_outputs: bool = False
    cuda_graph_strategy: str = "disabled"
    dynamic_shapes_kernel_specialization_strategy: str = "lazy"
    runtime_cache_path: str = ""
    weight_streaming_budget: int | None = None
    share_device_memory: bool = False

    @classmethod
    def of(cls, settings: CompilationSettings) -> RunOptions:
        """The options that compilation settings of the same names ask for."""
        options = cls(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(cls)})
        return graph_options(options) if settings.use_cuda_graphs else options

    def replace(self, **options: object) -> RunOptions:
        """A copy with other values."""
        return dataclasses.replace(self, **options)  # type: ignore[arg-type]

    @property
    def records_graphs(self) -> bool:
        """Whether TensorRT itself records CUDA graphs of what it runs."""
        return self.cuda_graph_strategy != "disabled"

    @property
    def needs_runtime_config(self) -> bool:
        """Whether contexts have to be made with a ``trt.IRuntimeConfig``."""
        default = RunOptions()
        return (
            self.records_graphs
            or self.dynamic_shapes_kernel_specialization_strategy
            != default.dynamic_shapes_kernel_specialization_strategy
            or bool(self.runtime_cache_path)
        )

    def check(self) -> None:
        """Check that the installed TensorRT can do all of it.

        Raises:
            SettingsError: it cannot; the message names the option.
        """
        trt = load()
        config = getattr(trt, "IRuntimeConfig", None)
        default = RunOptions()
        for name, member in (
            ("cuda_graph_strategy", "cuda_graph_strategy"),
            ("dynamic_shapes_kernel_specialization_strategy", "dynamic_shapes_kernel_specialization_strategy"),
            ("runtime_cache_path", "create_runtime_cache"),
        ):
            value = getattr(self, name)
            if value != getattr(default, name) and not hasattr(config, member):
                raise unable(name, value, "only TensorRT-RTX has it")
        if self.dynamic_shapes_kernel_specialization_strategy == "eager" and not capabilities().specializes:
            raise unable(
                "dynamic_shapes_kernel_specialization_strategy",
                "eager",
                "its kernels for one shape add the bias of a linear layer to the first row only",
            )
        if self.weight_streaming_budget is not None and not hasattr(trt.ICudaEngine, "weight_streaming_budget_v2"):
            raise unable("weight_streaming_budget", self.weight_streaming_budget, "it has no weight streaming")
        if self.share_device_memory and not hasattr(trt.IExecutionContext, "set_device_memory"):
            raise unable("share_device_memory", True, "it takes no memory from outside")


def graph_options(options: RunOptions) -> RunOptions:
    """The options of engines whose calls are recorded as CUDA graphs.

    A graph keeps the kernels that it was recorded with, so those for its very shapes have to be there before.
    """
    config = getattr(load(), "IRuntimeConfig", None)
    lazy = options.dynamic_shapes_kernel_specialization_strategy == "lazy"
    if lazy and hasattr(config, "dynamic_shapes_kernel_specialization_strategy") and capabilities().specializes:
        return options.replace(dynamic_shapes_kernel_specialization_strategy="eager")
    return options


def unable(name: str, value: object, why: str) -> SettingsError:
    """The error for an option that the installed TensorRT cannot honour."""
    trt = load()
    return SettingsError(f"{name}={value!r} cannot be honoured by {trt.__name__} {trt.__version__}: {why}")


__all__ = ["RunOptions", "graph_options", "unable"]
