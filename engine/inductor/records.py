"""A compiled segment in a file: its sizes and what its code takes for granted as JSON, and its package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy
import torch
from torch import fx

from engine.errors import FileError, SaveError
from engine.inductor.code import Code, loaded, made_for
from engine.inductor.segment import TorchSegment
from engine.inductor.sizes import SizeRange, Sizes, TensorInput
from engine.runtime.records.specs import read_dtype, write_dtype
from engine.runtime.size_text import (
    Symbols,
    read_relation,
    read_size,
    read_symbols,
    write_relation,
    write_size,
)

_MOST_PACKAGES = 10_000


def write_segment(segment: TorchSegment, packages: list[bytes]) -> dict[str, Any]:
    """What a file keeps of a segment besides its ops; its package is added to ``packages``.

    Raises:
        SaveError: a size has no text form.
    """
    symbols: Symbols = {}
    inputs = [_write_input(item, symbols) for item in segment.sizes.inputs]
    code = segment.code
    package: dict[str, Any] | None = None
    if code is not None and code.package is not None:
        try:
            guards = [write_relation(guard, symbols) for guard in code.guards]
        except SaveError:
            pass  # it is compiled again when the file is loaded
        else:
            package = {"number": len(packages), "guards": guards, "made_for": code.made_for}
            packages.append(code.package)
    ranges = {str(symbol): list(allowed) for symbol, allowed in segment.sizes.ranges.items()}
    return {
        "name": segment.name,
        "inputs": inputs,
        "ranges": ranges,
        "symbols": symbols,
        "package": package,
    }


def read_segment(data: Any, graph: fx.GraphModule) -> tuple[TorchSegment, StoredCode | None]:
    """The segment of what :func:`write_segment` gave, not compiled, and the code that the file has for it.

    Raises:
        FileError: it is damaged.
    """
    symbols = read_symbols(data.get("symbols"))
    inputs = tuple(_read_input(item, symbols) for item in data["inputs"])
    ranges: dict[sympy.Symbol, SizeRange] = {}
    for name, bounds in data["ranges"].items():
        if name not in symbols or len(bounds) != 3 or not all(type(b) is int and 0 <= b < 1 << 63 for b in bounds):
            raise FileError(f"the sizes of the symbol {str(name)[:40]!r} are damaged")
        ranges[symbols[name]] = SizeRange(*bounds)
    sizes = Sizes(inputs, ranges)
    if sizes.symbols != set(ranges) or len(inputs) != len(graph.graph.find_nodes(op="placeholder")):
        raise FileError("a segment of the file does not take what it says")
    segment = TorchSegment(str(data["name"]), graph, sizes)
    stored = data["package"]
    return segment, None if stored is None else StoredCode(stored, symbols)


class StoredCode:
    """The machine code that a file has for a segment.

    Attributes:
        number: of its package in the file.
    """

    def __init__(self, data: Mapping[str, Any], symbols: Mapping[str, sympy.Symbol]) -> None:
        self.number = data["number"]
        if type(self.number) is not int or not 0 <= self.number < _MOST_PACKAGES:
            raise FileError("the number of a segment's package is damaged")
        self.guards = tuple(read_relation(text, symbols) for text in data["guards"])
        self.made_for = {str(key): str(value) for key, value in data["made_for"].items()}

    def differs(self, kind: str) -> str:
        """Why the code does not run on a kind of device here; empty where it does."""
        here = made_for(kind)
        found = [
            f"{key} {value}, here {here.get(key)}" for key, value in self.made_for.items() if here.get(key) != value
        ]
        return "; ".join(found)

    def code(self, package: bytes, kind: str) -> Code:
        """The code, loaded into this process."""
        return Code(loaded(package, kind), "aot_inductor", self.guards, package, self.made_for)


def _write_input(item: Any, symbols: Symbols) -> Any:
    if not isinstance(item, TensorInput):
        return write_size(item, symbols)
    return {
        "shape": [write_size(size, symbols) for size in item.shape],
        "strides": [write_size(size, symbols) for size in item.strides],
        "dtype": write_dtype(item.dtype),
        "device": item.device.type,
    }


def _read_input(item: Any, symbols: Mapping[str, sympy.Symbol]) -> Any:
    if not isinstance(item, Mapping):
        return read_size(item, symbols)
    shape, strides = (tuple(read_size(size, symbols) for size in item[key]) for key in ("shape", "strides"))
    if len(shape) != len(strides) or item["device"] not in ("cpu", "cuda"):
        raise FileError("an input of a segment is damaged")
    return TensorInput(shape, strides, read_dtype(item["dtype"]), torch.device(item["device"]))


__all__ = ["StoredCode", "read_segment", "write_segment"]
