"""What times depend on: the GPU, TensorRT, the rules and the settings."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import torch

from engine import tensorrt
from engine.lowering.segment_engine import interprets
from engine.settings import CompilationSettings

INTERPRETER = "interpreter"


class Machine(NamedTuple):
    """Where times were measured.

    Attributes:
        gpu: name of the GPU; ``"interpreter"`` where networks were interpreted on a CPU, whose times say nothing about
            any GPU.
        capability: compute capability of the GPU, as ``"9.0"``; empty without one.
        tensorrt: name and version.
        torch: version of PyTorch.
    """

    gpu: str
    capability: str
    tensorrt: str
    torch: str

    @classmethod
    def here(cls, runtime: str) -> Machine:
        """The machine that this is, for modules that run with a runtime."""
        trt, version = tensorrt.describe_tensorrt(), torch.__version__
        if interprets(runtime):
            return cls(INTERPRETER, "", trt, version)
        major, minor = torch.cuda.get_device_capability()
        return cls(torch.cuda.get_device_name(), f"{major}.{minor}", trt, version)

    def __str__(self) -> str:
        capability = f" (compute capability {self.capability})" if self.capability else ""
        name = "the interpreter on a CPU" if self.gpu == INTERPRETER else self.gpu
        return f"{name}{capability}, {self.tensorrt}, PyTorch {self.torch}"


# Settings that change neither networks nor how fast engines are.
_ELSEWHERE = frozenset({
    "tune", "tune_budget", "cache_built_engines", "reuse_cached_engines", "engine_cache_dir", "engine_cache_size",
    "distributed_timeout", "debug", "runtime_cache_path", "trial_load", "min_block_size", "torch_executed_ops",
    "require_full_compilation", "immutable_weights",
})  # fmt: skip


def conditions(settings: CompilationSettings, rules: str, ranges: Any) -> str:
    """A digest of what a time depends on besides the machine and the structure that was measured.

    Args:
        rules: hash of the rule set.
        ranges: of the dynamic sizes.
    """
    told = {name: value for name, value in settings.to_dict().items() if name not in _ELSEWHERE}
    text = json.dumps([told, rules, ranges], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


__all__ = ["INTERPRETER", "Machine", "conditions"]
