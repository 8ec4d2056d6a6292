"""What the interpreter runs, as JSON and tensors, for files that keep it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from engine.errors import FileError
from engine.files.structures import fields_of
from engine.files.values import read_value, write_value
from engine.interpreter import Program
from engine.interpreter.flow import BOUNDARY
from engine.interpreter.layers import EVALUATORS
from engine.interpreter.network import NetworkInput
from engine.interpreter.step import Block, Region, Step

_CLASSES = {cls.__name__: cls for cls in (Block, NetworkInput, Region, Step)}


def write_program(program: Program, number: Callable[[torch.Tensor], int]) -> dict[str, Any]:
    """A program as JSON.

    Args:
        number: keeps a tensor, and gives the number to find it by.
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
            return tensors[content]
        if kind not in _CLASSES:
            return NotImplemented
        fields = {name: read_value(item, special) for name, item in content.items()}
        if kind == "Step" and fields.get("type") not in EVALUATORS and fields.get("type") not in BOUNDARY:
            raise FileError(f"the interpreter of this version does not run {str(fields.get('type'))[:40]!r} layers")
        return _CLASSES[kind](**fields)

    try:
        program = Program.__new__(Program)
        program._inputs = tuple(read_value(entry, special) for entry in data["inputs"])
        program._outputs = tuple(map(int, data["outputs"]))
        program.input_names = tuple(map(str, data["input_names"]))
        program.output_names = tuple(map(str, data["output_names"]))
        program._constants = {int(value): read_value(tensor, special) for value, tensor in data["constants"]}
        program._block = read_value(data["block"], special)
        program.weights = {str(name): tuple(map(_place, places)) for name, places in data["weights"].items()}
    except FileError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise FileError(f"the interpreter's program is damaged: {type(error).__name__}: {error}") from None
    return program


__all__ = ["read_program", "write_program"]
