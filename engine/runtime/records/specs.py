"""The shapes and dtypes at an engine's boundary in a record's metadata, as JSON, and as Torch-TensorRT reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from engine.dtypes import dtype_named
from engine.errors import FileError, RecordError
from engine.graph.tensor_spec import TensorSpec
from engine.runtime.size_text import Symbols, read_size, read_symbols, write_size

FORMAT = 1
"""Version of the metadata; a reader takes this one and those before it."""


def boundary_of(metadata: Mapping[str, Any]) -> tuple[list[Any] | None, list[Any] | None]:
    """The input and the output specs in a record's metadata; None where they were not recorded."""
    found = metadata.get("format", FORMAT)
    if not isinstance(found, int) or found > FORMAT:
        raise RecordError(f"the metadata has format {found!r}; this version of engine reads up to {FORMAT}")
    symbols = read_symbols(metadata.get("symbols", {}))
    inputs = _read_specs(metadata.get("inputs"), symbols)
    outputs = _read_specs(metadata.get("outputs"), symbols)
    if outputs is not None and not all(isinstance(spec, TensorSpec) for spec in outputs):
        raise RecordError("the metadata has an output without a dtype")
    return inputs, outputs


def torch_tensorrt_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata that Torch-TensorRT's Python reads: the shapes at the boundary, as it names them."""
    inputs, outputs = boundary_of(metadata)
    return {
        "settings": None,
        "inout_symexprs": {"inputs": _symexprs(inputs), "outputs": _symexprs(outputs)} if outputs is not None else None,
        "output_tensors_are_unowned": False,
    }


def _symexprs(specs: list[Any] | None) -> list[dict[str, Any]]:
    return [
        {"shape_exprs": list(spec.shape), "dtype": spec.dtype}
        if isinstance(spec, TensorSpec)
        else {"shape_exprs": [], "dtype": torch.int64}
        for spec in specs or ()
    ]


def write_dtype(dtype: torch.dtype) -> str:
    """``"float32"`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def read_dtype(name: Any) -> torch.dtype:
    """The dtype of a name; raises FileError where there is none."""
    dtype = dtype_named(name)
    if dtype is None:
        raise FileError(f"{str(name)[:40]!r} is not a dtype")
    return dtype


def write_specs(specs: Any, symbols: Symbols) -> Any:
    """Specs as JSON; the symbols of their sizes are added to ``symbols``."""
    if specs is None:
        return None
    return [
        {"shape": [write_size(size, symbols) for size in spec.shape], "dtype": write_dtype(spec.dtype)}
        if isinstance(spec, TensorSpec)
        else write_size(spec, symbols)
        for spec in specs
    ]


def _read_specs(specs: Any, symbols: Any) -> list[Any] | None:
    if specs is None:
        return None
    if not isinstance(specs, list):
        raise RecordError("the shapes in the metadata are damaged")
    return [_read_spec(spec, symbols) for spec in specs]


def _read_spec(spec: Any, symbols: Any) -> Any:
    if not isinstance(spec, Mapping):
        return read_size(spec, symbols)
    shape = spec.get("shape")
    if not isinstance(shape, list):
        raise RecordError("a shape in the metadata is damaged")
    return TensorSpec(tuple(read_size(size, symbols) for size in shape), read_dtype(spec.get("dtype")))


__all__ = ["FORMAT", "boundary_of", "read_dtype", "torch_tensorrt_metadata", "write_dtype", "write_specs"]
