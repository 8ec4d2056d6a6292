"""Layers without tensor inputs, and checks: constant, fill, assertion."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.errors import InterpreterError
from engine.interpreter.layers.common import Evaluator, output_dtype, resolve
from engine.interpreter.step import Step


def constant(step: Step) -> Tensor:
    """The weights in the layer's shape."""
    values: Tensor | None = step["weights"]
    shape = tuple(step["shape"])
    return torch.empty(shape, dtype=output_dtype(step)) if values is None else values.reshape(shape)


def fill(step: Step, dims: Tensor | None = None, alpha: Tensor | None = None, beta: Tensor | None = None) -> Tensor:
    """Values alpha + sum of beta[axis] * index, or random numbers.

    Random numbers come from PyTorch's default generator: ``torch.manual_seed`` makes them repeatable,
    and they have the layer's distribution but never TensorRT's values.
    """
    shape = resolve(step["shape"], dims)
    if shape is None:
        raise ValueError("the layer has no shape")
    dtype = output_dtype(step)
    operation = step["operation"]
    if operation == "LINSPACE":
        # float32 holds no int64 exactly; float64 holds every step of a linspace that float32 can tell.
        wide = torch.float64 if dtype.is_floating_point else torch.int64
        start = torch.tensor(step["alpha"]) if alpha is None else alpha
        delta = torch.tensor([step["beta"]]) if beta is None else beta.reshape(-1)
        result = start.to(wide).reshape(()).expand(shape)
        for axis, size in enumerate(shape):
            index = torch.arange(size, dtype=wide).reshape([-1] + [1] * (len(shape) - axis - 1))
            result = result + delta[axis].to(wide) * index
        return result.to(dtype)
    first = step["alpha"] if alpha is None else float(alpha)
    second = step["beta"] if beta is None else float(beta)
    if operation == "RANDOM_UNIFORM":
        return (torch.rand(shape) * (second - first) + first).to(dtype)
    return (torch.randn(shape) * second + first).to(dtype)


def assertion(step: Step, condition: Tensor) -> tuple[Tensor, ...]:
    """Fail with the layer's message unless every element is true."""
    if not bool(condition.all()):
        raise InterpreterError(f"assertion failed: {step['message']}")
    return ()


EVALUATORS: dict[str, Evaluator] = {"ASSERTION": assertion, "CONSTANT": constant, "FILL": fill}
