"""Layers that work element by element: activation, unary, element-wise, scale, select, cast; and matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.interpreter.dtypes import HALF_FLOATS, NARROW_FLOATS
from engine.interpreter.layers.common import Evaluator, by_bits, in_float32, output_dtype
from engine.interpreter.step import Step

_ACTIVATIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "RELU": lambda x, a, b: F.relu(x),
    "SIGMOID": lambda x, a, b: torch.sigmoid(x),
    "TANH": lambda x, a, b: torch.tanh(x),
    "LEAKY_RELU": lambda x, a, b: F.leaky_relu(x, a),
    "ELU": lambda x, a, b: F.elu(x, a),
    "SELU": lambda x, a, b: torch.where(x > 0, b * x, b * a * torch.expm1(x)),
    "SOFTSIGN": lambda x, a, b: x / (1 + x.abs()),
    # alpha * log(exp(beta * x) + 1), written so that exp cannot overflow.
    "SOFTPLUS": lambda x, a, b: a * torch.logaddexp(b * x, torch.zeros((), dtype=x.dtype)),
    "CLIP": lambda x, a, b: torch.clamp(torch.clamp(x, max=b), min=a),
    "HARD_SIGMOID": lambda x, a, b: torch.clamp(a * x + b, 0, 1),
    "SCALED_TANH": lambda x, a, b: a * torch.tanh(b * x),
    "THRESHOLDED_RELU": lambda x, a, b: torch.where(x > a, x, torch.zeros((), dtype=x.dtype)),
    # PyTorch's kernel returns NaN for infinity.
    "GELU_ERF": lambda x, a, b: 0.5 * x * (1 + torch.erf(x * math.sqrt(0.5))),
    "GELU_TANH": lambda x, a, b: F.gelu(x, approximate="tanh"),
}


# What NaN becomes where it does not stay: observed on TensorRT-RTX 1.6.1, compute capability 9.0.
def _of_nan(kind: str, low: float, half: bool) -> float | None:
    if kind == "CLIP" and not half:
        return low
    return 1.0 if kind == "HARD_SIGMOID" and half else None


def _sign(x: Tensor) -> Tensor:
    # NaN stays NaN, as observed on TensorRT-RTX 1.6.1, compute capability 9.0; PyTorch makes it 0.
    return torch.where(x.isnan(), x, torch.sign(x)) if x.is_floating_point() else torch.sign(x)


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "EXP": torch.exp,
    "LOG": torch.log,
    "SQRT": torch.sqrt,
    "RECIP": torch.reciprocal,
    "ABS": torch.abs,
    "NEG": torch.neg,
    "SIN": torch.sin,
    "COS": torch.cos,
    "TAN": torch.tan,
    "SINH": torch.sinh,
    "COSH": torch.cosh,
    "ASIN": torch.asin,
    "ACOS": torch.acos,
    "ATAN": torch.atan,
    "ASINH": torch.asinh,
    "ACOSH": torch.acosh,
    "ATANH": torch.atanh,
    "CEIL": torch.ceil,
    "FLOOR": torch.floor,
    "ERF": torch.erf,
    "NOT": torch.logical_not,
    "SIGN": _sign,
    "ROUND": torch.round,
    "ISINF": torch.isinf,
    "ISNAN": torch.isnan,
}


def _divide(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _floor_divide(x: Tensor, y: Tensor) -> Tensor:
    # The floor of the quotient; ``torch.div(..., rounding_mode="floor")`` corrects by the remainder.
    if not x.is_floating_point():
        return torch.div(x, y, rounding_mode="floor")
    # The quotient of half-width floats is rounded after the floor only: observed in bfloat16 on
    # TensorRT-RTX 1.6.1, compute capability 9.0.
    return torch.floor(x.float() / y.float()).to(x.dtype)


# Of a NaN and a number, the first operand wins in float32, the second in half precision: observed on TensorRT-RTX
# 1.6.1, compute capability 9.0. The documentation leaves it open; PyTorch returns NaN.
def _maximum(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(x > y, x, y) if x.dtype in HALF_FLOATS else torch.where(y > x, y, x)


def _minimum(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(x < y, x, y) if x.dtype in HALF_FLOATS else torch.where(y < x, y, x)


_ELEMENTWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "SUM": torch.add,
    "PROD": torch.mul,
    "MAX": _maximum,
    "MIN": _minimum,
    "SUB": torch.sub,
    "DIV": _divide,
    "POW": torch.pow,
    "FLOOR_DIV": _floor_divide,
    "AND": torch.logical_and,
    "OR": torch.logical_or,
    "XOR": torch.logical_xor,
    "EQUAL": torch.eq,
    "GREATER": torch.gt,
    "LESS": torch.lt,
}


def activation(step: Step, x: Tensor) -> Tensor:
    """The function of ``ActivationType`` with its ``alpha`` and ``beta``."""
    result = _activated(step, x)
    value = _of_nan(step["type"], step["alpha"], x.dtype in HALF_FLOATS)
    return result if value is None else result.masked_fill(x.isnan(), value)


@in_float32
def _activated(step: Step, x: Tensor) -> Tensor:
    return _ACTIVATIONS[step["type"]](x, step["alpha"], step["beta"])


@in_float32
def unary(step: Step, x: Tensor) -> Tensor:
    """The function of ``UnaryOperation``; ROUND takes ties to even."""
    return _UNARY[step["op"]](x)


def elementwise(step: Step, x: Tensor, y: Tensor) -> Tensor:
    """The function of ``ElementWiseOperation``, sizes of one broadcast; integer DIV rounds towards zero."""
    return _ELEMENTWISE[step["op"]](x, y)


@in_float32
def scale(step: Step, x: Tensor) -> Tensor:
    """(x * scale + shift) ** power, missing coefficients being 1, 0 and 1."""
    factor, shift, power = (_coefficient(step, name, x) for name in ("scale", "shift", "power"))
    if factor is not None:
        x = x * factor
    if shift is not None:
        x = x + shift
    return x if power is None else x**power


def _coefficient(step: Step, name: str, x: Tensor) -> Tensor | None:
    values: Tensor | None = step[name]
    if values is None:
        return None
    values = values.to(x.dtype)
    if step["mode"] == "UNIFORM":
        return values.reshape(())
    if step["mode"] == "CHANNEL":
        return values.reshape([-1] + [1] * (x.dim() - step["channel_axis"] - 1))
    return values.reshape(x.shape[1:])  # one coefficient per element of a batch item


@in_float32
def parametric_relu(step: Step, x: Tensor, slopes: Tensor) -> Tensor:
    """The input where it is not negative, elsewhere the input times its slope."""
    return torch.where(x < 0, x * slopes, x)


@by_bits
def select(step: Step, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``x`` where the condition is true, ``y`` elsewhere, all three broadcast."""
    return torch.where(condition, x, y)


def cast(step: Step, x: Tensor) -> Tensor:
    """Convert as CUDA does: to integers towards zero, saturating; to bool, is it not zero.

    NaN becomes 0, but the lowest value as an int64: observed on TensorRT-RTX 1.6.1, compute capability 9.0,
    and what the CUDA conversions document.
    """
    dtype = output_dtype(step)
    if x.dtype in NARROW_FLOATS:
        x = x.float()
    if dtype == torch.bool:
        return x != 0
    if x.is_floating_point() and not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        nan = float(limits.min) if dtype == torch.int64 else 0.0
        whole = torch.nan_to_num(x.double(), nan=nan, posinf=math.inf, neginf=-math.inf).trunc()
        # The largest int64 is not a double, so it is reached by comparison and not by conversion.
        above = whole >= float(limits.max)
        inside = torch.where(above, 0.0, whole.clamp(min=limits.min)).to(dtype)
        return inside.masked_fill(above, limits.max)
    if dtype == torch.float8_e4m3fn:
        return x.float().clamp(-448, 448).to(dtype)
    return x.to(dtype)


def identity(step: Step, x: Tensor) -> Tensor:
    """The input, cast where the layer was given another output type."""
    return x if x.dtype == output_dtype(step) else cast(step, x)


@in_float32
def matrix_multiply(step: Step, x: Tensor, y: Tensor) -> Tensor:
    """Batched product; ``VECTOR`` operands are rows on the left and columns on the right."""
    x = _operand(x, step["op0"], -2)
    y = _operand(y, step["op1"], -1)
    product = torch.matmul(x, y)
    if step["op1"] == "VECTOR":
        product = product.squeeze(-1)
    if step["op0"] == "VECTOR":
        product = product.squeeze(-1 if step["op1"] == "VECTOR" else -2)
    return product


def _operand(x: Tensor, operation: str, axis: int) -> Tensor:
    if operation == "VECTOR":
        return x.unsqueeze(axis)
    return x.mT if operation == "TRANSPOSE" else x


@in_float32
def einsum(step: Step, *inputs: Tensor) -> Tensor:
    """The Einstein summation of ``equation``."""
    return torch.einsum(step["equation"], *inputs)


@in_float32
def lrn(step: Step, x: Tensor) -> Tensor:
    """Divide x by (k + alpha / window * (sum of squares over neighbouring channels)) ** beta."""
    return F.local_response_norm(x, step["window_size"], step["alpha"], step["beta"], step["k"])


EVALUATORS: dict[str, Evaluator] = {
    "ACTIVATION": activation,
    "CAST": cast,
    "EINSUM": einsum,
    "ELEMENTWISE": elementwise,
    "IDENTITY": identity,
    "LRN": lrn,
    "MATRIX_MULTIPLY": matrix_multiply,
    "PARAMETRIC_RELU": parametric_relu,
    "SCALE": scale,
    "SELECT": select,
    "UNARY": unary,
}
