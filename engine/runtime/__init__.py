"""The runtime: engines as PyTorch modules, run by TensorRT on a GPU or interpreted on the CPU."""

from engine.graph.tensor_spec import TensorSpec
from engine.runtime.boundary import Boundary
from engine.runtime.controls import (
    WeightStreaming,
    enable_cudagraphs,
    enable_output_allocator,
    enable_pre_allocated_outputs,
    runtime_config,
    weight_streaming,
)
from engine.runtime.engines.python_engine import TRTEngine
from engine.runtime.failures import EngineLoadError, ExecutionError
from engine.runtime.load_check import trial_load
from engine.runtime.module import TorchTensorRTModule
from engine.runtime.options import RunOptions
from engine.runtime.profiling import LayerTime, Profile, profiling

__all__ = [
    "Boundary",
    "EngineLoadError",
    "ExecutionError",
    "LayerTime",
    "Profile",
    "RunOptions",
    "TRTEngine",
    "TensorSpec",
    "TorchTensorRTModule",
    "WeightStreaming",
    "enable_cudagraphs",
    "enable_output_allocator",
    "enable_pre_allocated_outputs",
    "profiling",
    "runtime_config",
    "trial_load",
    "weight_streaming",
]
