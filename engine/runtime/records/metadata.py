"""A ``TorchTensorRTModule`` as an engine record, and back: what the record's metadata says."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from engine.errors import RecordError, RuntimeUnavailable, SaveError, SettingsError, TensorRTNotFound
from engine.runtime.records.record import Device, EngineRecord, checksum, current_platform
from engine.runtime.records.specs import FORMAT, boundary_of, write_dtype, write_specs
from engine.runtime.size_text import Symbols

if TYPE_CHECKING:
    from engine.runtime.module import TorchTensorRTModule
    from engine.settings import CompilationSettings

# Folders of the machine that compiled; a file must not say where this one writes.
_OF_THE_MACHINE = frozenset({"engine_cache_dir", "runtime_cache_path", "tune"})


def record_of(module: TorchTensorRTModule, *, tensorrt: str = "", compute_capabilities: Any = ()) -> EngineRecord:
    """The record of a module's engine.

    Args:
        tensorrt: what built the engine, as `engine.Report.tensorrt` has it; "" where that is not known.
        compute_capabilities: that the engine serves, as TensorRT names them; empty where that is not known.

    Raises:
        SaveError, RecordError: something of it has no place in a record.
    """
    import engine

    symbols: Symbols = {}
    metadata: dict[str, Any] = {
        "format": FORMAT,
        "producer": f"engine {engine.__version__}",
        "torch": torch.__version__,
        "tensorrt": tensorrt,
        "compute_capabilities": list(compute_capabilities),
        "sha256": checksum(module.plan),
        "settings": {name: value for name, value in module.settings.to_dict().items() if name not in _OF_THE_MACHINE},
        "inputs": write_specs(module.input_specs, symbols),
        "outputs": write_specs(module.output_specs, symbols),
        "weight_name_map": _plain(module.weight_name_map, f"the weight names of engine {module.name!r}"),
    }
    metadata["symbols"] = symbols
    # Without targets an engine of TensorRT-RTX is for many GPUs; whether it loads on another is for TensorRT to say.
    portable = "RTX" in tensorrt and not module.settings.target_compute_capabilities
    return EngineRecord(
        module.name,
        module.plan,
        tuple(module.input_binding_names),
        tuple(module.output_binding_names),
        device=module.built_on or Device.current(),
        hardware_compatible=module.settings.hardware_compatible or portable,
        metadata=metadata,
        platform=current_platform(),
        requires_output_allocator=module.requires_output_allocator,
    )


def module_of(record: EngineRecord, **options: Any) -> TorchTensorRTModule:
    """The module of a record, not loaded onto a GPU yet.

    Args:
        options: further arguments of `TorchTensorRTModule`, such as ``runtime`` and ``program``.

    Raises:
        FileError: the record's metadata is damaged.
        RuntimeUnavailable: the engine cannot run where this process runs, whatever its GPU.
    """
    from engine.runtime.module import TorchTensorRTModule

    inputs, outputs = boundary_of(record.metadata)
    for what, specs, names in (("input", inputs, record.inputs), ("output", outputs, record.outputs)):
        if specs is not None and len(specs) != len(names):
            raise RecordError(f"the metadata has {len(specs)} {what} shapes for {len(names)} {what} names")
    weights = record.metadata.get("weight_name_map")
    if weights is not None and not isinstance(weights, Mapping):
        raise RecordError("the weight names in the metadata are damaged")
    module = TorchTensorRTModule(
        record.engine,
        list(record.inputs),
        list(record.outputs),
        name=record.name,
        settings=read_settings(record.metadata.get("settings", {})),
        weight_name_map=weights,
        requires_output_allocator=record.requires_output_allocator,
        input_specs=inputs,
        output_specs=outputs,
        **options,
    )
    module.built_on = record.device
    return module


def check_here(record: EngineRecord, device: torch.device | None = None) -> None:
    """Check a record against this machine: its platform, its TensorRT and, where there is one, its GPU.

    Raises:
        RuntimeUnavailable: the engine was built for something else; the message says for what.
    """
    called = f"engine {record.name!r}"
    here = current_platform()
    if record.platform not in ("unknown", here) and here != "unknown":
        raise RuntimeUnavailable(f"{called} was built for {record.platform}, this is {here}: compile the model here")
    built_by, installed = str(record.metadata.get("tensorrt") or ""), _installed()
    if built_by and installed and built_by != installed and not _may_load(built_by, installed, record):
        raise RuntimeUnavailable(
            f"{called} was built by {built_by}, and {installed} is installed: install {built_by}, or compile the model "
            "again (with version_compatible=True for engines that later versions load)"
        )
    capabilities: Any = record.metadata.get("compute_capabilities") or ()
    if not torch.cuda.is_available():
        return
    major, minor = torch.cuda.get_device_capability(device)
    own = f"SM{major}{minor}"
    if "CURRENT" in capabilities:
        capabilities = (f"SM{record.device.major}{record.device.minor}",)
    if capabilities and own not in capabilities and not record.hardware_compatible:
        raise RuntimeUnavailable(
            f"{called} was built for compute capability {', '.join(map(str, capabilities))}; this GPU "
            f"({torch.cuda.get_device_name(device)}) has {own}: compile with "
            f'target_compute_capabilities=["{major}.{minor}"]'
        )


def _may_load(built_by: str, installed: str, record: EngineRecord) -> bool:
    (name, _, version), (own_name, _, own_version) = built_by.rpartition(" "), installed.rpartition(" ")
    if name != own_name:
        return False
    settings = record.metadata.get("settings", {})
    return bool(settings.get("version_compatible")) and _numbers(version) <= _numbers(own_version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


@functools.cache
def _installed() -> str:
    from engine.tensorrt import describe_tensorrt

    try:
        return describe_tensorrt()
    except TensorRTNotFound:
        return ""


def read_settings(values: Any) -> CompilationSettings:
    """Settings from `CompilationSettings.to_dict`; those that this version does not have are left out."""
    from engine.settings import CompilationSettings

    if not isinstance(values, Mapping):
        raise RecordError("the settings in the metadata are damaged")
    known = {item.name for item in dataclasses.fields(CompilationSettings)} - _OF_THE_MACHINE
    given = {name: value for name, value in values.items() if name in known}
    # Names of ops of the machine that compiled: they need not exist here, where nothing is compiled.
    executed = given.pop("torch_executed_ops", ())
    try:
        settings = CompilationSettings(**given)
    except SettingsError as error:
        raise RecordError(f"the settings in the metadata are damaged: {error}") from None
    object.__setattr__(settings, "torch_executed_ops", frozenset(map(str, executed)))
    return settings


def _plain(value: Any, what: str) -> Any:
    """JSON values from mappings, sequences and dataclasses of them."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, what) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, what) for item in value]
    if isinstance(value, torch.dtype):
        return write_dtype(value)
    raise SaveError(f"{what} hold a {type(value).__name__}, which a file cannot hold")


__all__ = ["check_here", "module_of", "read_settings", "record_of"]
