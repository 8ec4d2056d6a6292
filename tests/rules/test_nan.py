"""NaN where PyTorch has it: extremes, clamps by tensors, signs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import engine

SPECIAL = (math.nan, math.inf, -math.inf, 0.0, 1.0, -1.0)


class Extremes(torch.nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        pairs = torch.maximum(x, y), torch.minimum(x, y), torch.maximum(y, x), torch.fmax(x, y), torch.fmin(x, y)
        return (
            *pairs,
            torch.clamp(x, y, None),
            torch.clamp(x, None, y),
            torch.clamp(x, y, y.flip(0)),
            torch.maximum(x + 1, y * 2) * 2,
            torch.sign(x),
            torch.relu(x),
        )


class Rows(torch.nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (
            x.amax(-1),
            x.amin(-1, keepdim=True),
            x.amax((0, 1)),
            x.amin(0),
            x.max(),
            x.min(),
            torch.linalg.vector_norm(x, math.inf, -1),
        )


def _agree(compiled: engine.CompiledModel, model: torch.nn.Module, *args: Tensor) -> None:
    assert compiled.report.coverage == 1
    for index, (actual, wanted) in enumerate(zip(compiled(*args), model(*args), strict=True)):
        assert actual.dtype == wanted.dtype
        torch.testing.assert_close(actual, wanted, rtol=0, atol=0, equal_nan=True, msg=lambda m, i=index: f"{i}: {m}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_pairs(dtype: torch.dtype) -> None:
    x = torch.tensor(SPECIAL, dtype=dtype).repeat(6)
    y = torch.tensor(SPECIAL, dtype=dtype).repeat_interleave(6)
    _agree(engine.compile(Extremes(), (x, y), runtime="interpreter"), Extremes(), x, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows(dtype: torch.dtype) -> None:
    rows = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows[0, 0] = rows[1, 2] = rows[2, 4] = math.nan
    rows[3] = math.nan
    rows[4, 1], rows[5] = math.inf, -math.inf
    size = engine.Input(min_shape=(2, 5), opt_shape=(7, 5), max_shape=(9, 5), dtype=dtype)
    for inputs in ([size], (rows,)):
        compiled = engine.compile(Rows(), inputs, runtime="interpreter")
        _agree(compiled, Rows(), rows)
        _agree(compiled, Rows(), rows[4:].contiguous()) if inputs == [size] else None
