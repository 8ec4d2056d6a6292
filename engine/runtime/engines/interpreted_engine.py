"""An engine's network, run on the CPU by the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from engine.errors import InputError
from engine.graph.tensor_spec import TensorSpec
from engine.process.pytorch_modes import undisturbed
from engine.runtime.boundary import Boundary, check_count, check_kinds
from engine.runtime.engines.inputs import Input

Program: TypeAlias = Callable[..., tuple[torch.Tensor, ...]]
"""Takes CPU tensors in the order of the input bindings; returns new CPU tensors."""


class InterpretedEngine:
    """The engine of a module whose network is interpreted; called as a `TRTEngine` is.

    CUDA inputs are copied to the CPU and results back to their device, so that a program written
    for a GPU gives the same results, slowly.
    """

    def __init__(
        self, program: Program, inputs: Sequence[str], outputs: Sequence[str], boundary: Boundary | None = None
    ) -> None:
        self._program = program
        self._inputs = list(inputs)
        self._outputs = list(outputs)
        self._boundary = boundary

    def __call__(self, inputs: Sequence[Input]) -> list[torch.Tensor]:
        """Run the network once.

        Raises:
            InputError: an input has the wrong dtype or shape.
            InterpreterError: a layer failed.
        """
        check_count(inputs, self._inputs)
        check_kinds(inputs, self._inputs)
        if self._boundary is not None:
            self._boundary.check(inputs, self._inputs)
        devices = {value.device for value in inputs if isinstance(value, torch.Tensor) and value.ndim}
        if len(devices) > 1:
            raise InputError(f"the inputs are on different devices: {', '.join(sorted(map(str, devices)))}")
        with torch.no_grad(), undisturbed():
            tensors = [self._tensor(position, value) for position, value in enumerate(inputs)]
            results = self._program(*tensors)
            if len(results) != len(self._outputs):
                raise InputError(f"the program gives {len(results)} outputs, the engine has {len(self._outputs)}")
            return [result.to(next(iter(devices), "cpu")) for result in results]

    def _tensor(self, position: int, value: Input) -> torch.Tensor:
        if isinstance(value, torch.Tensor):
            return value.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
        if not isinstance(value, int | float):
            raise InputError(f"input {self._inputs[position]!r} is a {type(value).__name__}, the engine takes a tensor")
        specs = self._boundary.inputs if self._boundary is not None else None
        spec = None if specs is None else specs[position]
        if isinstance(spec, TensorSpec):
            return torch.full([size if isinstance(size, int) else 1 for size in spec.shape], value, dtype=spec.dtype)
        return torch.tensor(value)
