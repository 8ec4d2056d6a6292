"""Programs: networks that run on the CPU."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from engine.errors import InputError, InterpreterError
from engine.interpreter import flow
from engine.interpreter.dtypes import TORCH_DTYPES
from engine.interpreter.layers import EVALUATORS
from engine.interpreter.network import NetworkInput, Reading, read
from engine.interpreter.schedule import arrange
from engine.interpreter.step import Block, Region, Step

Values = dict[int, Tensor]
Place: TypeAlias = "int | tuple[str, str]"


class Program:
    """A TensorRT network as something PyTorch can run on the CPU.

    A program is immutable, may run in several threads at once, can be deep-copied, and holds no TensorRT
    object.  Every value has the data type TensorRT inferred for it, and a shape that agrees with the one
    TensorRT inferred; a layer that would give anything else is an error.  INT4 and FP4 values are held
    unpacked, as ``int8`` and ``float8_e4m3fn``.

    Attributes:
        input_names: names of the network inputs, in the network's order.
        output_names: names of the network outputs, in the network's order.
        weights: name -> where the weights of that name are: constants, by the value that they define, and
            attributes of layers.  :meth:`refit` replaces them.
    """

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    weights: Mapping[str, tuple[Place, ...]]

    def __init__(self, reading: Reading, weights: Mapping[str, Tensor] | None = None) -> None:
        self.weights = _places(reading.steps, weights or {})
        self._inputs = reading.inputs
        self._outputs = tuple(value for value, _ in reading.outputs)
        self.input_names = tuple(entry.name for entry in reading.inputs)
        self.output_names = tuple(name for _, name in reading.outputs)
        self._constants: Values = {}
        for step in reading.steps:
            if step.type == "CONSTANT":
                self._step(step, self._constants)
        known = [entry.value for entry in reading.inputs]
        self._block = arrange(reading, (*known, *self._constants))

    @classmethod
    def from_network(
        cls, network: Any, keep_alive: Iterable[Tensor] = (), weights: Mapping[str, Tensor] | None = None
    ) -> Program:
        """Read a finished ``INetworkDefinition`` back.

        ``weights`` names weights: tensors among ``keep_alive``, no two of which share memory.

        TensorRT refers to the weights of a network and does not hold them, so their owner must live until
        this returns.  They are copied, except those that lie inside a CPU tensor of ``keep_alive``, whose
        memory is shared and kept.

        Raises:
            InterpreterError: the network has a layer that cannot be run, or one that TensorRT rejected.
        """
        return cls(read(network, keep_alive), weights)

    def refit(self, weights: Mapping[str, Tensor]) -> Program:
        """A program with other weights; those that are not given stay.

        Args:
            weights: by name, on the CPU, of the same dtype and number of elements as now.

        Raises:
            InterpreterError: there is no such weight, or the dtype or number of elements differs.
        """
        program = copy.copy(self)
        replaced: dict[tuple[str, str], Tensor] = {}
        program._constants = dict(self._constants)
        held = {(step.name, name): value for step in _steps(self._block) for name, value in step.attributes.items()}
        for name, tensor in weights.items():
            if name not in self.weights:
                raise InterpreterError(f"the network has no weights named {name!r}")
            for place in self.weights[name]:
                before = self._constants[place] if isinstance(place, int) else held[place]
                if (before.dtype, before.numel()) != (tensor.dtype, tensor.numel()):
                    raise InterpreterError(
                        f"the weights {name!r} are {before.numel()} elements of {before.dtype}, "
                        f"not {tensor.numel()} of {tensor.dtype}"
                    )
                now = tensor.detach().contiguous().reshape(before.shape)
                if isinstance(place, int):
                    program._constants[place] = now
                else:
                    replaced[place] = now
        program._block = _replaced(self._block, replaced)
        return program

    def owning(self, copies: Callable[[Sequence[Tensor]], Sequence[Tensor]]) -> Program:
        """A program with copies of its weights.

        Args:
            copies: returns a copy, or the same tensor, for each.
        """
        program = copy.copy(self)
        places = {
            (step.name, name): value
            for step in _steps(self._block)
            for name, value in step.attributes.items()
            if isinstance(value, Tensor)
        }
        made = iter(copies([*self._constants.values(), *places.values()]))
        program._constants = dict(zip(self._constants, made, strict=False))
        program._block = _replaced(self._block, dict(zip(places, made, strict=True)))
        return program

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the network on ``inputs``, in the order of ``input_names``.

        Returns:
            contiguous tensors in the order of ``output_names`` that share memory with no input or weight.

        Raises:
            InputError: an input has the wrong data type, shape or device, or their number is wrong.
            InterpreterError: a layer failed; the message names it.
        """
        if len(inputs) != len(self._inputs):
            raise InputError(f"the network has {len(self._inputs)} inputs, not {len(inputs)}")
        values = dict(self._constants)
        for entry, tensor in zip(self._inputs, inputs, strict=True):
            _check_input(entry, tensor)
            values[entry.value] = tensor
        foreign = {tensor.untyped_storage().data_ptr() for tensor in values.values()}
        with torch.no_grad():
            self._run(self._block, values)
            return tuple(_own(values[value], foreign) for value in self._outputs)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the network on inputs by name; like calling it otherwise."""
        missing = [name for name in self.input_names if name not in inputs]
        extra = [name for name in inputs if name not in self.input_names]
        if missing or extra:
            raise InputError(f"inputs missing: {missing}; inputs the network does not have: {extra}")
        outputs = self(*(inputs[name] for name in self.input_names))
        return dict(zip(self.output_names, outputs, strict=True))

    def _run(self, block: Block, values: Values, only: frozenset[int] | None = None) -> None:
        """Run the nodes of a block, or those that define a value of ``only``."""
        for node, released in zip(block.nodes, block.releases, strict=True):
            # A node without outputs is an assertion: it runs as soon as it has what it checks.
            if only is None or not only.isdisjoint(node.outputs) or _is_ready_check(node, values):
                if isinstance(node, Step):
                    self._step(node, values)
                else:
                    self._region(node, values)
            for value in released:
                values.pop(value, None)

    def _region(self, region: Region, values: Values) -> None:
        run = flow.run_loop if region.kind == "loop" else flow.run_conditional
        run(region, values, self._run)

    def _step(self, step: Step, values: Values) -> None:
        inputs = [None if value is None else values[value] for value in step.inputs]
        try:
            result = EVALUATORS[step.type](step, *inputs)
            outputs = (result,) if isinstance(result, Tensor) else result
            _check_outputs(step, outputs)
        except Exception as error:
            raise InterpreterError(_describe(step, inputs, error)) from error
        values.update(zip(step.outputs, outputs, strict=True))


def _places(steps: Iterable[Step], weights: Mapping[str, Tensor]) -> dict[str, tuple[Place, ...]]:
    """Where the weights with names are, by their addresses."""
    names = {tensor.data_ptr(): name for name, tensor in weights.items()}
    found: dict[str, list[Place]] = {name: [] for name in weights}
    for step in steps:
        for attribute, value in step.attributes.items():
            name = names.get(value.data_ptr()) if isinstance(value, Tensor) else None
            if name is not None:
                found[name].append(step.outputs[0] if step.type == "CONSTANT" else (step.name, attribute))
    return {name: tuple(places) for name, places in found.items()}


def _steps(block: Block) -> Iterator[Step]:
    for node in block.nodes:
        if isinstance(node, Step):
            yield node
        else:
            yield from _steps(node.body)


def _replaced(block: Block, weights: Mapping[tuple[str, str], Tensor]) -> Block:
    layers = {layer for layer, _ in weights}

    def with_weights(node: Step | Region) -> Step | Region:
        if isinstance(node, Region):
            return dataclasses.replace(node, body=_replaced(node.body, weights))
        if node.name not in layers:
            return node
        now = {name: weights.get((node.name, name), value) for name, value in node.attributes.items()}
        return dataclasses.replace(node, attributes=now)

    return dataclasses.replace(block, nodes=tuple(map(with_weights, block.nodes)))


def _is_ready_check(node: Step | Region, values: Values) -> bool:
    return not node.outputs and all(value is None or value in values for value in node.inputs)


def _check_input(entry: NetworkInput, tensor: Tensor) -> None:
    dtype = TORCH_DTYPES[entry.type]
    if tensor.dtype != dtype:
        raise InputError(f"input {entry.name!r} must be {dtype}, not {tensor.dtype}")
    if not _agrees(tuple(tensor.shape), entry.shape):
        raise InputError(
            f"input {entry.name!r} must have shape {entry.shape} (-1: any size), not {tuple(tensor.shape)}"
        )
    if tensor.device.type != "cpu":
        raise InputError(f"input {entry.name!r} is on {tensor.device}; the interpreter runs on the CPU")


def _check_outputs(step: Step, outputs: tuple[Tensor, ...]) -> None:
    for tensor, declared, shape in zip(outputs, step.output_types, step.output_shapes, strict=True):
        if tensor.dtype != TORCH_DTYPES[declared]:
            raise InterpreterError(f"TensorRT declares {declared}, the interpreter computed {tensor.dtype}")
        if shape is not None and not _agrees(tuple(tensor.shape), shape):
            raise InterpreterError(f"TensorRT declares shape {shape}, the interpreter computed {tuple(tensor.shape)}")


def _agrees(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(
        size == wanted or wanted < 0 for size, wanted in zip(shape, declared, strict=True)
    )


def _own(tensor: Tensor, taken: set[int]) -> Tensor:
    """``tensor``, or a copy if its memory belongs to somebody else; its memory is taken from then on."""
    result = tensor.contiguous()
    if result.untyped_storage().data_ptr() in taken:
        result = result.clone()
    taken.add(result.untyped_storage().data_ptr())
    return result


def _describe(step: Step, inputs: list[Tensor | None], error: Exception) -> str:
    shown = ", ".join(
        "unset" if tensor is None else f"{tensor.dtype}{list(tensor.shape)}".removeprefix("torch.") for tensor in inputs
    )
    metadata = f" [{step.metadata}]" if step.metadata else ""
    return f"layer {step.name!r} ({step.type}){metadata} with inputs ({shown}): {error}"
