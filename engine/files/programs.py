"""What the interpreter runs, as JSON and tensors, for files that keep it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from engine.errors import FileError
from engine.files.structures import fields_of
from engine.files.values import read_value, write_value
from engine.interpreter import Program
from engine.interpreter.dtypes import TORCH_DTYPES
from engine.interpreter.flow import BOUNDARY
from engine.interpreter.layers import EVALUATORS
from engine.interpreter.network import NetworkInput
from engine.interpreter.step import Block, Region, Step

_CLASSES = {cls.__name__: cls for cls in (Block, NetworkInput, Region, Step)}


def write_program(program: Program, number: Callable[[torch.Tensor], int]) -> dict[str, Any]:
    """A program as JSON.

    Args:
        number: keeps a tensor, and returns the number to find it by.
    """

    def special(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return {"tensor": number(value)}
        if type(value).__name__ in _CLASSES:
            fields = fields_of(value)
            return {type(value).__name__: {name: write_value(item, special) for name, item in fields.items()}}
        return NotImplemented

    return {
        "inputs": [write_value(entry, special) for entry in program._inputs],
        "outputs": list(program._outputs),
        "input_names": list(program.input_names),
        "output_names": list(program.output_names),
        "constants": [[value, write_value(tensor, special)] for value, tensor in program._constants.items()],
        "block": write_value(program._block, special),
        "weights": {name: [_plain(place) for place in places] for name, places in program.weights.items()},
    }


def _plain(place: int | tuple[str, str]) -> int | list[str]:
    return place if isinstance(place, int) else list(place)


def _place(data: Any) -> int | tuple[str, str]:
    if isinstance(data, int):
        return data
    layer, attribute = data
    return str(layer), str(attribute)


def read_program(data: Any, tensors: Mapping[int, torch.Tensor]) -> Program:
    """The program that `write_program` wrote.

    Raises:
        FileError: it is damaged, or has layers that this version cannot run.
    """

    def special(value: dict[str, Any]) -> Any:
        ((kind, content),) = value.items()
        if kind == "tensor":
            return tensors[_whole(content)]
        if kind not in _CLASSES:
            return NotImplemented
        fields = {name: read_value(item, special) for name, item in content.items()}
        if kind == "Step" and fields.get("type") not in EVALUATORS and fields.get("type") not in BOUNDARY:
            raise FileError(f"the interpreter of this version does not run {str(fields.get('type'))[:40]!r} layers")
        return _checked(_CLASSES[kind](**fields))

    try:
        program = Program.__new__(Program)
        program._inputs = tuple(read_value(entry, special) for entry in data["inputs"])
        program._outputs = tuple(map(_whole, data["outputs"]))
        program.input_names = tuple(map(str, data["input_names"]))
        program.output_names = tuple(map(str, data["output_names"]))
        program._constants = {_whole(value): read_value(tensor, special) for value, tensor in data["constants"]}
        program._block = read_value(data["block"], special)
        _require(isinstance(program._block, Block), "its block is not valid")
        _require(all(isinstance(entry, NetworkInput) for entry in program._inputs), "an input is not valid")
        _require(
            all(isinstance(value, torch.Tensor) for value in program._constants.values()), "a constant is not valid"
        )
        _require(len(program._inputs) == len(program.input_names), "its inputs and their names differ in number")
        _require(len(program._outputs) == len(program.output_names), "its outputs and their names differ in number")
        program.weights = {str(name): tuple(map(_place, places)) for name, places in data["weights"].items()}
    except FileError:
        raise
    except Exception as error:
        raise FileError(f"the interpreter's program is damaged: {type(error).__name__}: {error}") from None
    return program


def _checked(item: Any) -> Any:
    """A part of a program whose fields have the types that they must have."""
    match item:
        case Step():
            _require(isinstance(item.name, str) and isinstance(item.metadata, str), "a layer has no name")
            _require(isinstance(item.attributes, dict), "a layer's attributes are not valid")
            _require(
                _numbers(item.inputs, none=True) and _numbers(item.outputs), "a layer's inputs or outputs are not valid"
            )
            _require(
                isinstance(item.output_types, tuple) and isinstance(item.output_shapes, tuple),
                "a layer's output types or shapes are not valid",
            )
            _require(
                len(item.outputs) == len(item.output_types) == len(item.output_shapes),
                "a layer does not say the type and shape of every output",
            )
            _require(set(item.output_types) <= TORCH_DTYPES.keys(), "a layer has an output of an unknown type")
            _require(all(shape is None or _numbers(shape) for shape in item.output_shapes), "a shape is not valid")
        case Region():
            _require(item.kind in ("loop", "conditional") and isinstance(item.name, str), "a region has no known kind")
            _require(all(isinstance(step, Step) for step in item.boundary), "a region does not begin with layers")
            _require(isinstance(item.body, Block), "a region has no block")
            _require(_numbers(item.inputs) and _numbers(item.outputs), "a region's inputs or outputs are not valid")
        case Block():
            _require(
                all(isinstance(node, Step | Region) for node in item.nodes),
                "a block holds something that is neither a layer nor a region",
            )
            _require(all(map(_numbers, item.releases)), "a block releases something that is not a value")
            _require(len(item.nodes) == len(item.releases), "a block does not say what it releases")
        case NetworkInput():
            _require(isinstance(item.name, str) and type(item.value) is int, "an input has no name")
            _require(item.type in TORCH_DTYPES and _numbers(item.shape), "an input has no type or shape")
    return item


def _numbers(values: Any, *, none: bool = False) -> bool:
    return isinstance(values, tuple) and all(type(value) is int or (none and value is None) for value in values)


def _whole(value: Any) -> int:
    _require(type(value) is int, f"{str(value)[:40]!r} is not a number of something")
    return int(value)


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise FileError(f"the interpreter's program is damaged: {otherwise}")


__all__ = ["read_program", "write_program"]
