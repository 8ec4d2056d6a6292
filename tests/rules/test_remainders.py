"""Remainders and floors of quotients are exact, for every quotient and every dtype."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import engine

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
NUMBERS = (4.0, 2.0**80, 0.5, 0.1, -0.1, 6.28, 0.7, 1.0, -3.0, 1e-3, 1e30, 3e-42, math.inf, -math.inf, 0.0, math.nan)
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, 3.0, -4.0, 2.0, math.inf, -math.inf, math.nan, 1e30, -3e38, 1e-40, 65504.0)


def _exact(a: Tensor, b: Tensor) -> Tensor:
    """C's fmod. PyTorch's own for vectors is NaN where the quotient is beyond float32."""
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(np.fmod(a.double().numpy(), b.double().numpy()))


def _remainder(a: Tensor, b: Tensor) -> Tensor:
    m = _exact(a, b).to(torch.float32)
    return torch.where((m != 0) & ((m < 0) != (b < 0)), m + b.float(), m)


def _floor(a: Tensor, b: Tensor) -> Tensor:
    """What PyTorch's kernels compute, in float32 but for the exact fmod."""
    a, b = a.float(), b.float()
    m = _exact(a, b).float()
    q = (a - m) / b
    q = torch.where((m != 0) & ((m < 0) != (b < 0)), q - 1, q)
    floor = torch.floor(q)
    floor = torch.where(q - floor > 0.5, floor + 1, floor)
    floor = torch.where(q == 0, torch.copysign(torch.zeros(()), a / b), floor)
    return torch.where(b == 0, a / b, floor)


class Remainders(torch.nn.Module):
    def __init__(self, b: float | None = None) -> None:
        super().__init__()
        self.b = b

    def forward(self, a: Tensor, b: Tensor | None = None) -> tuple[Tensor, ...]:
        y = self.b if b is None else b
        return torch.fmod(a, y), a % y, torch.floor_divide(a, y), torch.div(a, y, rounding_mode="trunc")


def _operands(dtype: torch.dtype, seed: int) -> Tensor:
    """Every exponent, numbers of everyday size, multiples of a tenth, and special ones."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**31), 2**31, (700,), generator=generator).to(torch.int32).view(torch.float32)
    usual = torch.randn(700, generator=generator) * 40
    tenths = torch.arange(-300, 300) / 10
    pieces = [bits, usual, tenths, torch.tensor(SPECIAL)]
    return torch.cat(pieces)[torch.randperm(2015, generator=generator)].to(dtype)


def _same(actual: Tensor, wanted: Tensor) -> None:
    wanted = wanted.to(actual.dtype)
    same = (actual == wanted) & (torch.signbit(actual) == torch.signbit(wanted)) | (actual.isnan() & wanted.isnan())
    wrong = (~same).nonzero().flatten()[:5]
    assert same.all(), f"{int((~same).sum())} wrong, at {wrong.tolist()}: {actual[wrong]} for {wanted[wrong]}"


def _whole(compiled: Callable[..., object]) -> Callable[..., object]:
    assert compiled.report.coverage == 1  # type: ignore[attr-defined]
    return compiled


@pytest.mark.parametrize("dtype", FLOATS)
def test_by_tensor(dtype: torch.dtype) -> None:
    a, b = _operands(dtype, 1), _operands(dtype, 2)
    compiled = _whole(engine.compile(Remainders(), (a, b), runtime="interpreter"))
    fmod, remainder, floor, trunc = compiled(a, b)  # type: ignore[misc]
    _same(fmod, _exact(a, b))
    _same(remainder, _remainder(a, b))
    _same(floor, _floor(a, b))
    _same(trunc, torch.trunc(a.float() / b.float()))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("number", NUMBERS)
def test_by_number(dtype: torch.dtype, number: float) -> None:
    a = _operands(dtype, 3)
    compiled = _whole(engine.compile(Remainders(number), (a,), runtime="interpreter"))
    fmod, remainder, floor, trunc = compiled(a)  # type: ignore[misc]
    rounded, wide = (torch.full(a.shape, number).to(d) for d in (dtype, torch.float32))
    _same(fmod, _exact(a, rounded))
    _same(remainder, _remainder(a, rounded))
    # As PyTorch's kernels do, where a divisor is a number.
    _same(floor, _floor(a, wide))
    _same(trunc, torch.trunc(a.float() / wide))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("number", [0.1, 6.28, -0.7, 3.0])
def test_as_pytorch(dtype: torch.dtype, number: float) -> None:
    """Where PyTorch is exact itself."""
    a = (torch.arange(-400, 400) / 10).to(dtype)
    model = Remainders(number)
    compiled = engine.compile(model, (a,), runtime="interpreter")
    for actual, wanted in zip(compiled(a), model(a), strict=True):
        _same(actual, wanted)


def test_dynamic_sizes_and_broadcasting() -> None:
    a = engine.Input(min_shape=(1, 1, 5), opt_shape=(3, 1, 5), max_shape=(6, 1, 5))
    b = engine.Input(min_shape=(4, 1), opt_shape=(4, 1), max_shape=(4, 1))
    compiled = _whole(engine.compile(Remainders(), (a, b), runtime="interpreter"))
    x, y = torch.randn(4, 1, 5) * 100, torch.randn(4, 1)
    for actual, wanted in zip(compiled(x, y), Remainders()(x, y), strict=True):  # type: ignore[call-overload]
        assert actual.shape == wanted.shape
        _same(actual.flatten(), wanted.flatten())


class Mixed(torch.nn.Module):
    def forward(self, i: Tensor, f: Tensor, half: Tensor, zero_d: Tensor) -> tuple[Tensor, ...]:
        return i % 0.3, i % f, half % zero_d, half // zero_d, 7.5 % f, i // 0.3, f % i.shape[0], zero_d % 0.7


def test_mixed_operands() -> None:
    i = torch.arange(-12, 12)
    args = i, torch.randn(24), (torch.randn(24) * 30).half(), torch.tensor(0.3)
    compiled = engine.compile(Mixed(), args, runtime="interpreter")
    for actual, wanted in zip(compiled(*args), Mixed()(*args), strict=True):
        assert actual.dtype == wanted.dtype
        _same(actual.reshape(-1), wanted.reshape(-1))


class Whole(torch.nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return (
            a % b,
            torch.fmod(a, b),
            a // b,
            torch.div(a, b, rounding_mode="trunc"),
            a % -3,
            a // -3,
            torch.fmod(a, -3),
            7 % b,
        )


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_ints(dtype: torch.dtype) -> None:
    a = torch.arange(-20, 20, dtype=dtype).repeat_interleave(8)
    b = torch.tensor([-7, -3, -2, -1, 1, 2, 3, 7], dtype=dtype).repeat(40)
    compiled = _whole(engine.compile(Whole(), (a, b), runtime="interpreter"))
    for actual, wanted in zip(compiled(a, b), Whole()(a, b), strict=True):  # type: ignore[call-overload]
        assert actual.dtype == wanted.dtype
        assert torch.equal(actual, wanted)


def test_double_stays_in_pytorch() -> None:
    a, b = torch.randn(50, dtype=torch.float64) * 10, torch.randn(50, dtype=torch.float64)
    compiled = engine.compile(Remainders(), (a, b), runtime="interpreter")
    for actual, wanted in zip(compiled(a, b), Remainders()(a, b), strict=True):
        _same(actual, wanted)
