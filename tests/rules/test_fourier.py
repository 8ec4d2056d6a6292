"""Angles of real frequencies, and matrices of a Fourier transform that are exact at quarter turns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import engine


class Spectrum(torch.nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.fft.rfft(x)
        return torch.angle(y)[..., :: max(1, x.shape[-1] // 2)], torch.view_as_real(y)


@pytest.mark.parametrize("n", [2, 4, 6, 10, 12, 64, 100, 1000])
def test_real_frequencies(n: int) -> None:
    x = torch.randn(6, n, generator=torch.Generator().manual_seed(n))
    x[0], x[1] = x[0].abs(), -x[1].abs()
    compiled = engine.compile(Spectrum(), (x,), runtime="interpreter")
    (angle, parts), (wanted, exact) = compiled(x), Spectrum()(x)
    assert torch.equal(angle, wanted)  # of the mean and of the Nyquist frequency: 0 or pi
    torch.testing.assert_close(parts, exact, rtol=1e-4, atol=1e-4)
    assert (parts[:, [0, -1], 1] == 0).all()


def test_double_precision_is_kept() -> None:
    class Parts(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(torch.fft.fft(x, norm="ortho"))

    x = torch.randn(3, 24, dtype=torch.float64)
    compiled = engine.compile(Parts(), (x,), runtime="interpreter")
    torch.testing.assert_close(compiled(x), Parts()(x), rtol=1e-12, atol=1e-12)


class Rotated(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """A unit impulse at each place: the columns of the matrix."""
        return torch.view_as_real(torch.fft.fft(x))


@pytest.mark.parametrize("n", [4, 8, 12, 16])
def test_quarter_turns(n: int) -> None:
    x = torch.eye(n)
    columns = engine.compile(Rotated(), (x,), runtime="interpreter")(x)
    turn = torch.arange(n)[:, None] * torch.arange(n) * 4 % (4 * n)
    quarters = turn % n == 0
    wanted = torch.tensor([[1.0, 0.0], [0.0, -1.0], [-1.0, 0.0], [0.0, 1.0]])[(turn // n)[quarters]]
    assert torch.equal(columns[quarters], wanted)
