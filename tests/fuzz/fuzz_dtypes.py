"""Ops with numbers and mixed dtypes: an op gives PyTorch's dtype and values, and no rule ends a compilation.

A case is one op of one, two or three operands, each a tensor of some dtype (perhaps without dims) or a Python number,
with numbers of another kind than the tensors where the op takes any. What PyTorch rejects is drawn again.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import engine
from tests.fuzz.checking import checking

NAME = "dtypes"
CASES = 2000
FIXED = 40

_DTYPES = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool),
    *(torch.complex64, torch.complex32),
)
_TOLERANCES = {torch.float16: 1e-2, torch.complex32: 1e-2, torch.bfloat16: 4e-2}
_NUMBERS = (2, -3, 0, 0.5, -2.5, 1.0, 3.7, True, False)


class _Op(torch.nn.Module):
    def __init__(self, function: Callable[..., Any], operands: list[Any]) -> None:
        super().__init__()
        self.function, self.operands = function, operands

    def forward(self, *tensors: Tensor) -> Any:
        rest = iter(tensors)
        result = self.function(*(next(rest) if operand is None else operand for operand in self.operands))
        # Complex numbers do not leave an engine.
        return torch.view_as_real(result) if torch.is_tensor(result) and result.dtype == torch.complex64 else result


def _binary(name: str, **keywords: Any) -> Callable[..., Any]:
    return lambda a, b: getattr(torch, name)(a, b, **keywords)


def _scaled(name: str) -> Callable[..., Any]:
    return lambda a, b, k: getattr(torch, name)(a, b, alpha=k)


def _ternary(name: str) -> Callable[..., Any]:
    return lambda x, a, b, k: getattr(torch, name)(x, a, b, value=k)


_TWO = {
    **{name: _binary(name) for name in ("add", "sub", "mul", "div", "remainder", "fmod", "floor_divide", "pow")},
    **{name: _binary(name) for name in ("maximum", "minimum", "atan2", "hypot", "copysign", "eq", "lt", "ge", "ne")},
    **{name: _binary(name) for name in ("logical_and", "bitwise_and", "fmax", "fmin", "ldexp", "xlogy", "rsub")},
    "div_floor": _binary("div", rounding_mode="floor"),
    "div_trunc": _binary("div", rounding_mode="trunc"),
    "clamp_min": lambda a, b: torch.clamp(a, b, None),
    "masked_fill": lambda a, b: a.masked_fill(torch.zeros_like(a, dtype=torch.bool).logical_not(), b),
    "leaky_relu": lambda a, b: torch.nn.functional.leaky_relu(a, b),
    "threshold": lambda a, b: torch.nn.functional.threshold(a, 0, b),
    "elu": lambda a, b: torch.nn.functional.elu(a, b),
    "softplus": lambda a, b: torch.nn.functional.softplus(a, 1.0, b),
    "hardtanh": lambda a, b: torch.nn.functional.hardtanh(a, -1, b),
    "full_like": lambda a, b: torch.full_like(a, b),
}
_THREE = {
    "where": lambda a, b, c: torch.where(c != 0, a, b),
    "clamp": lambda a, b, c: torch.clamp(a, b, c),
    "lerp": lambda a, b, c: torch.lerp(a, b, c),
    "add_alpha": _scaled("add"),
    "sub_alpha": _scaled("sub"),
    "rsub_alpha": _scaled("rsub"),
}
_FOUR = {
    "addcmul": _ternary("addcmul"),
    "addcdiv": _ternary("addcdiv"),
    "addmm": lambda x, a, b, k: torch.addmm(x, a, b, beta=k, alpha=k),
    "baddbmm": lambda x, a, b, k: torch.baddbmm(x[None], a[None], b[None], beta=k, alpha=k),
}
# Their further operands are numbers; one read from a tensor is another subject.
_OF_NUMBERS = ("leaky_relu", "threshold", "elu", "softplus", "hardtanh", "full_like")
_OPS = [(name, function, n) for n, ops in ((2, _TWO), (3, _THREE), (4, _FOUR)) for name, function in ops.items()]


def _operand(draw: random.Random, may_be_number: bool) -> Any:
    if may_be_number and draw.random() < 0.45:
        return draw.choice(_NUMBERS)
    dtype = draw.choice(_DTYPES)
    shape = draw.choice(((4, 4), (4, 4), (1, 4), ()))
    values = torch.tensor([[draw.choice((-2.5, -2.0, -1.0, 0.0, 0.5, 1.0, 3.0)) for _ in range(4)] for _ in range(4)])
    values = values.abs() if dtype == torch.uint8 else values
    if dtype.is_complex:
        values = torch.complex(values, values.flip(1))
    return values[: shape[0]].to(dtype) if shape else values[0, 1].to(dtype)


def _case(draw: random.Random) -> tuple[str, _Op, list[Tensor], Any]:
    while True:
        name, function, count = draw.choice(_OPS)
        operands = [_operand(draw, place > 0 and not (count == 4 and place < 3)) for place in range(count)]
        if count == 4 or name.endswith("_alpha"):
            operands[-1] = draw.choice(_NUMBERS)
        if name in _OF_NUMBERS or (name == "clamp" and not all(isinstance(o, Tensor) for o in operands)):
            operands[1:] = [draw.choice(_NUMBERS) for _ in operands[1:]]
        if name in ("addmm", "baddbmm"):
            operands[:3] = [o.expand(4, 4).contiguous().to(operands[0].dtype) for o in operands[:3]]
        if name == "pow" and isinstance(operands[1], bool):
            continue  # PyTorch 2.13 infers int64 for a power of bools, and computes bools
        tensors = [operand for operand in operands if isinstance(operand, Tensor)]
        model = _Op(function, [None if isinstance(operand, Tensor) else operand for operand in operands])
        try:
            wanted = model(*tensors)
        except (RuntimeError, TypeError, ValueError, IndexError, OverflowError):
            continue
        shown = ", ".join(f"{o.dtype}{list(o.shape)}" if isinstance(o, Tensor) else repr(o) for o in operands)
        return f"{name}({shown})".replace("torch.", ""), model, tensors, wanted


def _differs(actual: Tensor, wanted: Tensor) -> bool:
    """Whether values differ where PyTorch's are finite by more than some roundings."""
    if actual.shape != wanted.shape:
        return True
    if not (wanted.is_floating_point() or wanted.is_complex()):
        return not torch.equal(actual, wanted)
    tolerance = _TOLERANCES.get(wanted.dtype, 1e-4)
    a, b = actual.to(torch.complex128), wanted.to(torch.complex128)
    return bool((((a - b).abs() > tolerance * (1 + b.abs())) & b.isfinite()).any())


def run(count: int, seed: int) -> list[str]:
    """Faults among ``count`` cases, one line each."""
    faults = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(count):
            shown, model, tensors, wanted = _case(random.Random(f"{seed} {number}"))
            torch._dynamo.reset()
            try:
                # As users compile: a rule of another dtype must not apply there either.
                with checking(number % 2 == 1):
                    compiled = engine.compile(model, tuple(tensors), runtime="interpreter")
                    actual = compiled(*tensors)
                if actual.dtype != wanted.dtype:
                    faults.append(f"{seed}/{number} {shown}: {actual.dtype} for {wanted.dtype}")
                    continue
                if _differs(actual, wanted):
                    faults.append(f"{seed}/{number} {shown}: {actual.flatten()[:8]} for {wanted.flatten()[:8]}")
            except Exception as error:
                first = str(error).strip().splitlines() or [""]
                faults.append(f"{seed}/{number} {shown}: {type(error).__name__}: {' '.join(first)[:300]}")
    return faults
