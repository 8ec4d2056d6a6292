"""Compiled modules in ``.pt2`` files: the graph, its tensors and engines, how it is called, and the report."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx

import engine
from engine.builder.blueprint import Blueprint
from engine.capture.signature import Signature
from engine.compiled.module import CompiledModule
from engine.errors import FileError, RuntimeUnavailable, SaveError
from engine.files.archive import Reader, Writer, replacing
from engine.files.graphs import GraphWriter, read_graph
from engine.files.plan_file import describe_record
from engine.files.programs import read_program, write_program
from engine.files.reading import reading
from engine.files.reports import read_report, write_report
from engine.files.structures import read_signature, write_signature
from engine.inductor.description import describe_torch_segments
from engine.inductor.grouping import torch_segments
from engine.inductor.records import StoredCode
from engine.inductor.segment import TorchSegment
from engine.refitting.weight_map import WeightPlan
from engine.runtime import TorchTensorRTModule
from engine.runtime.records.metadata import check_here, module_of, record_of
from engine.runtime.records.record import EngineRecord
from engine.runtime.records.specs import read_dtype, write_dtype
from engine.storage.packed_text import pack, unpack
from engine.storage.unnamed_file import kept

_LOG = logging.getLogger("engine.files")

FORMAT = 2
"""Version of the file; a reader takes this one and those before it.  Files without packed text are written as 1."""

_GRAPH, _SIGNATURE, _REPORT = "extra/graph.json", "extra/signature.json", "extra/report.json"
_WEIGHTS = "extra/weights.json"


def write_module(module: CompiledModule, path: str | os.PathLike[str], *, program: bool) -> None:
    """Write a compiled module; the file appears whole or not at all.

    Raises:
        SaveError, RecordError: the module holds something that a file cannot hold.
        OSError: the file cannot be written.
    """
    graphs = GraphWriter()
    module.bring_constants_back()
    graph = graphs.write(module.graph_module)
    if graphs.unlisted:
        _LOG.warning("%s: it takes engine.load(path, allow_ops=%s) to load this file", path, list(graphs.unlisted))
    tensors = graphs.tensors
    records = [
        record_of(held, tensorrt=module.report.tensorrt, compute_capabilities=module.report.compute_capabilities)
        for held in graphs.engines
    ]
    programs = [_program(held, tensors) for held in graphs.engines] if program else []
    signature, report = write_signature(module._signature), write_report(module.report)
    weights = None
    if module.weight_plan is not None:
        blueprints = [None if held.blueprint is None else held.blueprint.to_json() for held in graphs.engines]
        weights = {"plan": module.weight_plan.to_json(), "blueprints": blueprints}
    with replacing(path) as file, Writer(file) as writer:
        writer.add_json(_REPORT, report)
        writer.add_json(_SIGNATURE, signature)
        writer.add_json(_GRAPH, graph)
        writer.add_json(_WEIGHTS, weights)
        for index, tensor in enumerate(tensors):
            writer.add_tensor(f"data/weights/weight_{index}", tensor)
        engines, packed = [], {}
        for index, record in enumerate(records):
            fields = record.replace(engine=b"").to_fields()
            fields[3] = member = f"data/constants/engine_{index}.plan"
            found = pack(record.engine)
            if found is None:
                writer.add_bytes(member, record.engine)
            else:
                packed[member], stored = found
                writer.add_bytes(member, stored)
            engines.append(fields)
        for index, package in enumerate(graphs.packages):
            writer.add_bytes(_package(index), package)
        for index, data in enumerate(programs):
            writer.add_json(f"extra/program_{index}.json", data)
        writer.finish(
            {
                "format": FORMAT if packed else 1,
                "producer": f"engine {engine.__version__}",
                "torch": torch.__version__,
                "tensorrt": module.report.tensorrt,
                "model": module.report.model,
                "engines": engines,
                "programs": len(programs),
                "tensors": list(map(_describe, tensors)),
                **({"states": _states(module)} if module.states else {}),
                **({"packed": packed} if packed else {}),
            }
        )


def _package(index: Any) -> str:
    return f"data/aotinductor/segment_{index}.pt2"


def _program(held: TorchTensorRTModule, tensors: list[torch.Tensor]) -> dict[str, Any]:
    if held.program is None:
        raise SaveError(
            f"engine {held.name!r} has no program of the interpreter to keep: compile the model with "
            'runtime="interpreter", or save it without program=True'
        )
    numbers = {id(tensor): index for index, tensor in enumerate(tensors)}

    def number(tensor: torch.Tensor) -> int:
        if id(tensor) not in numbers:
            numbers[id(tensor)] = len(tensors)
            tensors.append(tensor)
        return numbers[id(tensor)]

    return write_program(held.program, number)  # type: ignore[arg-type]


def _states(module: CompiledModule) -> list[list[Any]]:
    """Of each state its name in the model, the tensor of the graph that it is, and whether state dicts have it."""
    hidden = module.graph_module._non_persistent_buffers_set
    return [[name, buffer, buffer not in hidden] for name, buffer in module.states.buffers.items()]


def _read_states(manifest: Mapping[str, Any], graph: fx.GraphModule) -> dict[str, str]:
    found: dict[str, str] = {}
    # Files of earlier versions have none.
    for entry in _list_of(manifest, "states", list) if "states" in manifest else ():
        if [type(item) for item in entry] != [str, str, bool]:
            raise FileError("a state of the file is damaged")
        name, buffer, persistent = entry
        if buffer not in graph._buffers or buffer in found.values() or name in found:
            raise FileError(f"the state {name[:40]!r} is none of the tensors of the graph, or there are two of it")
        found[name] = buffer
        if not persistent:
            graph._non_persistent_buffers_set.add(buffer)
    return found


def _describe(tensor: torch.Tensor) -> dict[str, Any]:
    return {
        "dtype": write_dtype(tensor.dtype),
        "shape": list(tensor.shape),
        "strides": list(tensor.stride()),
        "device": tensor.device.type,
    }


def read_module(
    path: str | os.PathLike[str],
    *,
    runtime: str,
    device: torch.device | None,
    allowed: frozenset[str] = frozenset(),
    host_code: bool = False,
) -> CompiledModule:
    """Read a compiled module.

    Args:
        allowed: ops that its graph may call besides those that any file may call.
        host_code: run the machine code that it has for what stays in PyTorch.

    Raises:
        FileError: the file is damaged, or not one of `write_module`.
        RuntimeUnavailable: its engines cannot run here, though there is a GPU, or not in the way asked for.
        OSError: the file cannot be read.
    """
    where = _where(device, runtime)
    with Reader(path) as reader, reading(path):
        manifest = checked_manifest(reader)
        tensors = {
            index: _read_tensor(reader, index, entry, device, where)
            for index, entry in enumerate(_list_of(manifest, "tensors", dict))
        }
        programs = [
            read_program(reader.read_json(f"extra/program_{index}.json"), tensors)
            for index in range(_count(manifest.get("programs")))
        ]
        records = read_records(reader)
        if len(programs) not in (0, len(records)):
            raise FileError(f"the file has {len(programs)} programs for {len(records)} engines")
        engines = {}
        for index, record in enumerate(records):
            if torch.cuda.is_available() and runtime != "interpreter":
                check_here(record, where if where.type == "cuda" else None)
            engines[index] = _module(record, runtime, programs[index] if programs else None)
        stored: dict[TorchSegment, StoredCode] = {}
        graph = read_graph(reader.read_json(_GRAPH), tensors, engines, allowed, stored)
        packages = {each: reader.read(_package(code.number)) for each, code in stored.items()} if host_code else {}
        report = read_report(reader.read_json(_REPORT))
        plan = _read_weights(reader.read_json(_WEIGHTS), engines, allowed)
        # The last of all: only this can import or register something.
        signature = read_signature(reader.read_json(_SIGNATURE))
        _check_together(graph, signature)
        module = CompiledModule(graph, signature, report, _read_states(manifest, graph))
    module.weight_plan = plan
    for held in engines.values() if device is not None else ():
        held.to(device)
    module.place(where)
    segments = list(torch_segments(graph))
    for segment in segments:
        _compile(segment, stored.get(segment), packages.get(segment))
    if segments:
        describe_torch_segments(report, graph)
    return module


def _compile(segment: TorchSegment, stored: StoredCode | None, package: bytes | None) -> None:
    """Let a segment run by the code of the file, or compile it again."""
    kind = segment.sizes.kind
    if stored is None:
        why = "the file has no code for it"
    elif package is None:
        why = "allow_host_code=True was not passed to engine.load"
    elif why := stored.differs(kind):
        why = f"the code of the file is for another machine ({why})"
    else:
        try:
            segment.use(stored.code(package, kind))
            return
        except Exception as error:
            why = f"the code of the file does not load: {error}"
    _LOG.info("%s is compiled again: %s", segment.name, why)
    segment.compile_ops()


def _read_weights(data: Any, engines: Mapping[int, TorchTensorRTModule], allowed: frozenset[str]) -> WeightPlan | None:
    if data is None:
        return None
    if not isinstance(data, dict) or not isinstance(data.get("blueprints"), list):
        raise FileError("the weight plan is damaged")
    plan = WeightPlan.from_json(data.get("plan"), allowed)
    for index, blueprint in enumerate(data["blueprints"]):
        if blueprint is not None:
            engines[index].blueprint = Blueprint.from_json(blueprint)
    return plan


def _check_together(graph: fx.GraphModule, signature: Signature) -> None:
    """Whether a graph takes and returns what the signature says."""
    inputs = sum(node.op == "placeholder" for node in graph.graph.nodes)
    live = sum(not argument.is_constant for argument in signature.arguments)
    (results,) = graph.graph.output_node().args
    if inputs != live:
        raise FileError(f"the graph has {inputs} inputs, and the signature {live}")
    if not isinstance(results, list | tuple) or len(results) != signature.out_spec.num_leaves:
        raise FileError("the graph does not return as many results as the signature says")
    for node in graph.graph.nodes:
        if node.op == "call_module":
            held = getattr(graph, str(node.target))
            taken = len(held.sizes.inputs if isinstance(held, TorchSegment) else held.input_binding_names)
            if len(node.args) != taken:
                raise FileError(f"the graph passes {len(node.args)} inputs to {held.name!r}, which takes {taken}")


def _where(device: torch.device | None, runtime: str) -> torch.device:
    """The device that a module is loaded for, a GPU with its index."""
    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() and runtime != "interpreter" else "cpu")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return device


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= 10_000:
        raise FileError(f"{str(value)[:40]!r} is not a number of programs")
    return value


def _module(record: EngineRecord, runtime: str, program: Any) -> TorchTensorRTModule:
    if runtime == "interpreter" and program is None:
        raise RuntimeUnavailable(
            f"engine {record.name!r} was saved without what the interpreter runs: save it with "
            "engine.save(module, path, program=True)"
        )
    return module_of(record, runtime=runtime, program=program)


def checked_manifest(reader: Reader) -> Mapping[str, Any]:
    """The manifest of a file whose format this version reads."""
    found = reader.manifest.get("format")
    if type(found) is not int or not 1 <= found <= FORMAT:
        raise FileError(f"the file has format {found!r}; engine {engine.__version__} reads up to {FORMAT}")
    return reader.manifest  # type: ignore[no-any-return]


def _list_of(manifest: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    found = manifest.get(key)
    if not isinstance(found, list) or not all(isinstance(item, kind) for item in found):
        raise FileError(f"the manifest does not list the file's {key}")
    return found


def read_records(reader: Reader) -> list[EngineRecord]:
    """The records of a file's engines.

    Raises:
        FileError: one is damaged, or its metadata is not JSON.
    """
    records = []
    packed = reader.manifest.get("packed", {})
    if not isinstance(packed, dict):
        raise FileError("the manifest does not say which plans are packed")
    for index, fields in enumerate(_list_of(reader.manifest, "engines", list)):
        if len(fields) < 4 or fields[3] != f"data/constants/engine_{index}.plan":
            raise FileError(f"the record of engine {index} is damaged")
        plan = reader.read_kept(fields[3])
        if fields[3] in packed:
            try:
                plan = kept(unpack(plan, packed[fields[3]]))
            except ValueError as error:
                raise FileError(f"the plan of engine {index} is damaged: {error}") from None
        record = EngineRecord.from_fields([*fields[:3], plan, *fields[4:]])
        if record.notes:
            raise FileError(
                f"engine {index} ({record.name!r}): {record.notes[0]}; files of engine.save hold no pickles"
            )
        records.append(record)
    return records


def _read_tensor(
    reader: Reader, index: int, entry: Mapping[str, Any], asked: torch.device | None, here: torch.device
) -> torch.Tensor:
    dtype, shape, strides = _described(index, entry)
    data = reader.read_writable(f"data/weights/weight_{index}")
    count = 1
    for size in shape:
        count *= size
    if count * dtype.itemsize != len(data):
        raise FileError(f"tensor {index} of dtype {dtype} and shape {shape} does not have {len(data)} bytes")
    if not count:
        tensor = torch.empty(shape, dtype=dtype)
    else:
        # The file gave a buffer of its own, which the tensor keeps.
        tensor = torch.frombuffer(data, dtype=torch.uint8).view(dtype).reshape(shape)
    if count and tensor.stride() != tuple(strides) and _is_dense(shape, strides):
        tensor = torch.empty_strided(shape, strides, dtype=dtype).copy_(tensor)
    # A tensor that was on the CPU beside an engine is one that has to be there.
    return tensor.to(here) if entry["device"] == "cuda" and (asked is None or asked.type == "cuda") else tensor


def _described(index: int, entry: Mapping[str, Any]) -> tuple[torch.dtype, list[int], list[int]]:
    """Dtype, shape and strides of a tensor, as far as they are possible at all."""
    shape: Any = entry.get("shape")
    strides: Any = entry.get("strides")
    for sizes in (shape, strides):
        if not isinstance(sizes, list) or not all(type(size) is int and 0 <= size < 1 << 62 for size in sizes):
            raise FileError(f"tensor {index} does not have a shape {str(shape)[:80]} with strides {str(strides)[:80]}")
    if len(shape) != len(strides) or entry.get("device") not in ("cpu", "cuda"):
        raise FileError(f"tensor {index} does not have as many strides as dims, or is on {entry.get('device')!r}")
    return read_dtype(entry.get("dtype")), shape, strides


def _is_dense(shape: list[int], strides: list[int]) -> bool:
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def inspect_module(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file holds, without loading it: the manifest, the records' metadata, the report."""
    with Reader(path) as reader, reading(path):
        manifest = checked_manifest(reader)
        tensors = _list_of(manifest, "tensors", dict)
        for index, entry in enumerate(tensors):
            _described(index, entry)
        return {
            "path": str(Path(path)),
            **{key: manifest.get(key) for key in ("format", "producer", "torch", "tensorrt", "model")},
            "tensors": tensors,
            "engines": [describe_record(record) for record in read_records(reader)],
            "report": read_report(reader.read_json(_REPORT)),
        }


__all__ = ["inspect_module", "read_module", "write_module"]
