"""The runtime: engines as PyTorch modules, run by TensorRT on a GPU or interpreted on the CPU."""

from engine.runtime.boundary import Boundary, TensorSpec
from engine.runtime.failures import EngineLoadError, ExecutionError
from engine.runtime.module import TorchTensorRTModule
from engine.runtime.python_engine import TRTEngine
from engine.runtime.trial import trial_load

__all__ = [
    "Boundary",
    "EngineLoadError",
    "ExecutionError",
    "TRTEngine",
    "TensorSpec",
    "TorchTensorRTModule",
    "trial_load",
]
