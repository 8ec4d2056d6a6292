"""Engines from networks: the builder configuration that settings ask for, and the build."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from engine.builder.plan_stream import build_plan
from engine.conversion.network import BuiltNetwork
from engine.conversion.scope import quote
from engine.conversion.weights import refits_natively
from engine.errors import BuildError, SettingsError
from engine.tensorrt import capabilities, load

if TYPE_CHECKING:
    from engine.settings import CompilationSettings


class EngineRefused(BuildError):
    """TensorRT could not build an engine.

    Attributes:
        failed_layers: names of the layers that TensorRT's messages mention, in network order.
    """

    def __init__(self, message: str, failed_layers: tuple[str, ...]) -> None:
        super().__init__(message)
        self.failed_layers = failed_layers


def build(built: BuiltNetwork) -> memoryview:
    """Build the engine of a network.

    Returns:
        The serialized engine, which nobody writes to.

    Raises:
        BuildError: TensorRT could not build it, with its messages and the layers that they name.
        SettingsError: the installed TensorRT cannot honour a setting.
    """
    config = builder_config(built.builder, built.settings)
    profiles = () if built.profile is None else (built.profile, *built.more_profiles)
    if any(config.add_optimization_profile(profile) < 0 for profile in profiles):
        raise BuildError(f"{built.name}: TensorRT rejected the optimization profile\n{_messages(built)}")
    built.logger.clear()
    weights = sum(tensor.nbytes for tensor in built.weights.tensors)
    plan = build_plan(built.builder, built.network, config, weights)
    if plan is None:
        text = _messages(built)
        named = layers_at_fault(text, built.layer_names)
        where = "\n  layers named: " + ", ".join(named) if named else ""
        raise EngineRefused(f"{built.name}: TensorRT could not build the engine\n{text}{where}", named)
    return plan


def _messages(built: BuiltNetwork) -> str:
    return quote(built.logger.messages) or "TensorRT gave no reason"


def layers_at_fault(text: str, names: Sequence[str]) -> tuple[str, ...]:
    """The layers that a message of TensorRT is about, in the order of ``names``.

    Where it writes an operation out (``a_output : f32[2] = resize(b_output), ..., name=a``), that is the layer of the
    operation and not those of its operands; elsewhere every layer that it mentions.
    """
    # A tensor without a name is called after its layer, and an operation after layer and kind.
    written = {name for name in names if re.search(re.escape(name) + r"(?:_output(?:_\d+)?)? : \w+\[", text)}
    for found in re.finditer(r"\bname=(\S+)", text):
        begins = [name for name in names if re.match(re.escape(name) + r"(?![\w#]*[/#])", found[1])]
        written.update(sorted(begins, key=len)[-1:])
    return tuple(name for name in names if (name in written if written else _mentions(text, name)))


def _mentions(text: str, name: str) -> bool:
    return re.search(re.escape(name) + r"(?:_output(?:_\d+)?)?(?![\w#])", text) is not None


def builder_config(builder: Any, settings: Any) -> Any:
    """A builder configuration that does what ``settings`` say.

    Raises:
        SettingsError: the installed TensorRT cannot honour a setting.
    """
    trt = load()
    config = builder.create_builder_config()
    # Engine inspector and profiler then tell layers by the names that lead back to rules.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
        if config.builder_optimization_level != settings.optimization_level:
            raise _unable("optimization_level", settings.optimization_level)
    if settings.workspace_size:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_size)
        if config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) != settings.workspace_size:
            raise _unable("workspace_size", settings.workspace_size)
    if settings.disable_tf32:
        if capabilities().rtx:
            # Observed with 1.6.1 on compute capability 9.0: float32 products are those of TF32 all the same.
            raise _unable("disable_tf32", True, "TensorRT-RTX ignores the flag")
        config.clear_flag(trt.BuilderFlag.TF32)
    else:
        config.set_flag(trt.BuilderFlag.TF32)
    if settings.version_compatible:
        if capabilities().rtx:
            raise _unable("version_compatible", True, "TensorRT-RTX has no lean runtime")
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if refits_natively(settings):
        config.set_flag(trt.BuilderFlag.REFIT)
    if settings.enable_weight_streaming:
        flag = getattr(trt.BuilderFlag, "WEIGHT_STREAMING", None)
        if flag is None:
            raise _unable("enable_weight_streaming", True, "it has no weight streaming")
        config.set_flag(flag)
    _set_target(config, settings)
    return config


def _set_target(config: Any, settings: Any) -> None:
    trt, targets = load(), settings.target_compute_capabilities
    if targets:
        if not hasattr(config, "num_compute_capabilities"):
            raise _unable("target_compute_capabilities", targets, "it builds for the GPU of this machine")
        config.num_compute_capabilities = len(targets)
        for index, name in enumerate(targets):
            member = getattr(trt.ComputeCapability, name, None)
            if member is None:
                known = [str(n) for n in trt.ComputeCapability.__members__ if n != "NONE"]
                raise _unable("target_compute_capabilities", name, f"it knows {', '.join(known)}")
            if not config.set_compute_capability(member, index):
                raise _unable("target_compute_capabilities", name)
    if not settings.hardware_compatible:
        return
    if capabilities().rtx:
        # An engine of TensorRT-RTX is for all that it knows from 8.0 on unless it is told otherwise.
        if targets:
            raise _unable("hardware_compatible", True, "target_compute_capabilities narrows the engine")
        return
    level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    config.hardware_compatibility_level = level
    if config.hardware_compatibility_level != level:
        raise _unable("hardware_compatible", True)


def _unable(name: str, value: object, why: str = "it does not take the value") -> SettingsError:
    trt = load()
    return SettingsError(f"{name}={value!r} cannot be honoured by {trt.__name__} {trt.__version__}: {why}")


def for_this_gpu(settings: CompilationSettings) -> CompilationSettings | None:
    """Settings whose engines are for the GPU of this machine; None where they say themselves what engines are for.

    TensorRT-RTX by itself builds for GPUs that do not include 9.0.  Most of what it builds runs there by kernels of
    older GPUs, which can be faster than those for ``CURRENT`` (seen with 1.6.1 on an H200: a diffusion model in 29
    instead of 40 ms); the rest is rejected when it is loaded (a group norm by itself).
    """
    if settings.target_compute_capabilities or settings.hardware_compatible or not capabilities().rtx:
        return None
    return dataclasses.replace(settings, target_compute_capabilities=("CURRENT",))


def compute_capabilities(settings: Any) -> tuple[str, ...]:
    """Compute capabilities that engines built with ``settings`` serve, as TensorRT names them (``SM89``)."""
    trt = load()
    if settings.target_compute_capabilities:
        return tuple(settings.target_compute_capabilities)
    if capabilities().rtx:
        # Without targets TensorRT-RTX serves those from 8.0 on that it knows.
        members = trt.ComputeCapability.__members__.items()
        return tuple(name for name, member in members if int(member) >= 80)
    if not torch.cuda.is_available():
        return ()
    major, minor = torch.cuda.get_device_capability()
    return (f"SM{major}{minor}", "SM80 and later") if settings.hardware_compatible else (f"SM{major}{minor}",)


__all__ = ["EngineRefused", "build", "builder_config", "compute_capabilities", "for_this_gpu", "layers_at_fault"]
