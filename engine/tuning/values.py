"""Values to measure with: the inputs of the model at its usual sizes, and what its nodes compute of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from engine.capture import Captured, Input
from engine.capture.examples import stretched
from engine.capture.inputs import range_of
from engine.capture.signature import Argument


def example_inputs(
    captured: Captured, model: Any, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
) -> list[Any]:
    """Flat inputs of a captured graph: what the user gave as an example where it fits, at the sizes to optimise for.

    Others are normally distributed; ints are ones, a valid index of nearly everything.
    """
    given = _given(captured, model, args, kwargs)
    return [
        _example(captured, argument, value)
        for argument, value in zip(captured.arguments, given, strict=True)
        if not argument.is_constant
    ]


def _given(captured: Captured, model: Any, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> list[Any]:
    if args is None and not kwargs and isinstance(model, ExportedProgram) and model.example_inputs is not None:
        args, kwargs = model.example_inputs
    if args is None or isinstance(args, torch.Tensor | Input) or not isinstance(args, Sequence):
        args = () if args is None else (args,)
    leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs or {})))
    return (
        leaves
        if spec.num_leaves == len(captured.arguments) and spec == captured.in_spec
        else [None] * len(captured.arguments)
    )


def _example(captured: Captured, argument: Argument, given: Any) -> Any:
    if argument.shape is None:
        return range_of(argument.symbol, captured.ranges).opt  # type: ignore[arg-type]
    shape = [range_of(size, captured.ranges).opt for size in argument.shape]
    if not isinstance(given, torch.Tensor) or given.dtype != argument.dtype or given.dim() != len(shape):
        assert argument.dtype is not None
        given = Input([max(size, 2) for size in shape] or (), dtype=argument.dtype).example()
    return stretched(given, shape).detach().clone().to(argument.device)


class _Recorded(fx.Interpreter):
    """Runs a graph, and keeps the values of some of its nodes."""

    def __init__(self, module: fx.GraphModule, names: Collection[str]) -> None:
        super().__init__(module)
        self.names = names
        self.found: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.names:
            self.found[n.name] = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.detach().clone(), value)
        return value


def recorded(captured: Captured, inputs: Sequence[Any], names: Collection[str]) -> dict[str, Any]:
    """The values that nodes of a captured graph have for some flat inputs, by name, as PyTorch computes them."""
    interpreter = _Recorded(captured.module(), names)
    states = [state.tensor.detach().clone() for state in captured.states]
    interpreter.run(*(own(value) for value in inputs), *states)
    return interpreter.found


def own(value: Any) -> Any:
    """The same value in a tensor of its own, which a model may write to."""
    return value.clone() if isinstance(value, torch.Tensor) else value


__all__ = ["example_inputs", "own", "recorded"]
