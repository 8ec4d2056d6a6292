"""Resizes by factors have PyTorch's sizes and pixels, for static and for dynamic sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import engine

FACTORS = (1.3, 0.7, 0.29, 2.1, 1.1, 1 / 3, 0.53, 1.5)
SIZES = (10, 30, 50, 60, 90, 100, 180, 300)


class Resizes(torch.nn.Module):
    def __init__(self, factors: tuple[float, ...], mode: str) -> None:
        super().__init__()
        self.factors, self.mode = factors, mode

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(F.interpolate(x, scale_factor=f, mode=self.mode) for f in self.factors)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "linear"])
@pytest.mark.parametrize("size", SIZES)
def test_static_sizes(mode: str, size: int) -> None:
    x = torch.randn(1, 2, size)
    model = Resizes(FACTORS, mode)
    compiled = engine.compile(model, (x,), runtime="interpreter")
    for actual, wanted in zip(compiled(x), model(x), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_dynamic_sizes(mode: str) -> None:
    model = Resizes((1.3, 0.5, 2.1), mode)
    size = engine.Input(min_shape=(1, 2, 8), opt_shape=(1, 2, 64), max_shape=(1, 2, 400))
    compiled = engine.compile(model, [size], runtime="interpreter")
    for n in SIZES:
        x = torch.randn(1, 2, n)
        for actual, wanted in zip(compiled(x), model(x), strict=True):
            assert actual.shape == wanted.shape, (n, mode)
            torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=2e-4)
