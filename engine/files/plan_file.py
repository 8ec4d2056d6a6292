"""Plain TensorRT plans with a JSON sidecar: ``x.plan`` and ``x.json``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from engine.errors import FileError, RuntimeUnavailable
from engine.files.archive import write_json
from engine.files.reading import reading
from engine.runtime import EngineLoadError, TorchTensorRTModule
from engine.runtime.engines.bindings import binding_names
from engine.runtime.records.metadata import check_here, module_of, record_of
from engine.runtime.records.record import EngineRecord
from engine.storage import strict_json
from engine.storage.regular_file import open_regular, read_regular
from engine.storage.unnamed_file import read_kept, release
from engine.storage.whole_file import replacing
from engine.tensorrt import load as load_tensorrt
from engine.tensorrt.logger import capturing_logger, error_texts

SUFFIXES = (".plan", ".engine", ".trt")


def sidecar(module: TorchTensorRTModule, *, tensorrt: str = "", compute_capabilities: Any = ()) -> dict[str, Any]:
    """What the sidecar says: names and shapes for people and other programs, and the record without the plan."""
    record = record_of(module, tensorrt=tensorrt, compute_capabilities=compute_capabilities)
    fields = record.replace(engine=b"").to_fields()
    fields[3] = ""
    return {
        "name": module.name,
        "inputs": list(record.inputs),
        "outputs": list(record.outputs),
        "input_specs": record.metadata["inputs"],
        "output_specs": record.metadata["outputs"],
        "tensorrt": tensorrt,
        "record": fields,
    }


def write_plan(
    module: TorchTensorRTModule, path: str | os.PathLike[str], *, tensorrt: str = "", compute_capabilities: Any = ()
) -> None:
    """Write a plan and its sidecar.

    Raises:
        SaveError, RecordError: something of the module has no place in a record.
        OSError: a file cannot be written.
    """
    names = sidecar(module, tensorrt=tensorrt, compute_capabilities=compute_capabilities)
    # The sidecar inside: a plan without it is never left behind where there was none.
    with replacing(path) as plan:
        plan.write(module.plan)
        with replacing(sidecar_path(path)) as file:
            file.write(json.dumps(names, indent=2, sort_keys=True).encode() + b"\n")


def sidecar_path(path: str | os.PathLike[str]) -> Path:
    """The path of a plan's sidecar."""
    return Path(path).with_suffix(".json")


def read_plan(path: str | os.PathLike[str], *, runtime: str, device: torch.device | None) -> TorchTensorRTModule:
    """The module of a plan with a sidecar; without one the names come from the engine itself, which takes a GPU.

    Raises:
        FileError: the sidecar is damaged, or does not belong to the plan.
        EngineLoadError: TensorRT does not load the plan.
        RuntimeUnavailable: there is no sidecar and no GPU.
    """
    with open_regular(path) as file:
        plan = read_kept(file, os.fstat(file.fileno()).st_size)
    if not plan:
        raise FileError(f"{path} is empty")
    beside = sidecar_path(path)
    if beside.exists():
        with reading(beside):
            record = _record(plan, beside)
            release(plan)
            if torch.cuda.is_available() and runtime != "interpreter":
                check_here(record, device)
            module = module_of(record, runtime=runtime)
    else:
        inputs, outputs = _names(path, plan, device)
        module = TorchTensorRTModule(plan, inputs, outputs, name=Path(path).stem, runtime=runtime)
    return module.to(device) if device is not None else module


def _record(plan: bytes | memoryview, path: Path) -> EngineRecord:
    content = read_regular(path)
    with reading(path):
        try:
            found = strict_json.parse(content)
            fields = found["record"] if isinstance(found, dict) else None
            if not isinstance(fields, list):
                raise ValueError("it has no record")
        except (ValueError, KeyError) as error:
            raise FileError(f"{path} is not the sidecar of a plan: {type(error).__name__}: {error}") from None
        record = EngineRecord.from_fields([*fields[:3], plan, *fields[4:]])
        if record.notes:
            raise FileError(record.notes[0])
    return record


def inspect_plan(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the sidecar of a plan says.

    Raises:
        FileError: the sidecar is damaged, or does not belong to the plan.
        OSError: a file is missing, or cannot be read.
    """
    beside = sidecar_path(path)
    record = _record(read_regular(path), beside)
    with reading(beside):
        return {"path": str(path), "engines": [describe_record(record)]}


def describe_record(record: EngineRecord) -> dict[str, Any]:
    """A record without its plan, as JSON."""
    metadata = record.metadata
    return {
        "name": record.name,
        "engine_bytes": len(record.engine),
        "inputs": list(record.inputs),
        "outputs": list(record.outputs),
        "input_specs": metadata.get("inputs"),
        "output_specs": metadata.get("outputs"),
        "device": str(record.device),
        "platform": record.platform,
        "tensorrt": metadata.get("tensorrt"),
        "compute_capabilities": metadata.get("compute_capabilities"),
    }


def _names(
    path: str | os.PathLike[str], plan: bytes | memoryview, device: torch.device | None
) -> tuple[list[str], list[str]]:
    if not torch.cuda.is_available():
        raise RuntimeUnavailable(
            f"{path} has no sidecar ({sidecar_path(path).name}) with the names of its inputs and outputs, and without "
            "a GPU they cannot be read from the plan: use TorchTensorRTModule(plan, inputs, outputs)"
        )
    logger = capturing_logger()
    with torch.cuda.device(device), logger.gather() as messages:
        engine = load_tensorrt().Runtime(logger).deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineLoadError(f"{path} does not load", error_texts(messages))
        return binding_names(engine)


__all__ = [
    "SUFFIXES",
    "describe_record",
    "inspect_plan",
    "read_plan",
    "sidecar",
    "sidecar_path",
    "write_json",
    "write_plan",
]
