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


RECONSTRUCTED = {
    "spectrum": lambda x: torch.view_as_real(torch.fft.rfft(x)),
    "root of the size": lambda x: torch.view_as_real(torch.fft.fft(x, norm="ortho")),
    "there and back": lambda x: torch.fft.irfft(torch.fft.rfft(x), n=x.shape[-1]),
    "two dims": lambda x: torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho") * (1 + 2j), s=x.shape[-2:], norm="ortho"),
    "frequencies": lambda x: x.sum(0) * torch.fft.fftfreq(x.shape[1], d=0.5),
    "half of the frequencies": lambda x: torch.fft.rfft(x).abs() * torch.fft.rfftfreq(x.shape[1]),
    "a convolution": lambda x: torch.fft.irfft(torch.fft.rfft(x, n=2 * x.shape[1]) ** 2, n=2 * x.shape[1]),
}


class Computed(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("name", RECONSTRUCTED)
def test_dynamic_lengths(name: str) -> None:
    """The matrices are computed when the engine runs."""
    model = Computed(RECONSTRUCTED[name])
    ranged = engine.Input(min_shape=(1, 1), opt_shape=(3, 12), max_shape=(4, 600))
    compiled = engine.compile(model, [ranged], runtime="interpreter", min_block_size=1)
    assert compiled.report.fallbacks == []
    for shape in ((1, 1), (2, 2), (3, 7), (4, 600)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_length_that_may_be_large_stays_in_pytorch_and_says_so() -> None:
    ranged = engine.Input(min_shape=(1, 4), opt_shape=(3, 12), max_shape=(4, 9000))
    report = engine.coverage(Computed(RECONSTRUCTED["spectrum"]), [ranged])
    transform = next(fallback for fallback in report.fallbacks if fallback.op == "aten._fft_r2c.default")
    assert "a range up to 4096 settles it" in str(report.why(transform.node))


def test_dynamic_lengths_in_double_precision_stay_in_pytorch() -> None:
    ranged = engine.Input(min_shape=(1, 4), opt_shape=(3, 12), max_shape=(4, 30), dtype=torch.float64)
    compiled = engine.compile(Computed(RECONSTRUCTED["there and back"]), [ranged], runtime="interpreter")
    x = torch.randn(2, 7, dtype=torch.float64)
    torch.testing.assert_close(compiled(x), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("center", [True, False])
def test_windows_added_up_to_a_length_that_is_a_size(center: bool) -> None:
    window = torch.hann_window(8) + 0.1

    def there_and_back(x: Tensor) -> Tensor:
        y = torch.stft(x, 8, 3, 8, window, center=center, normalized=True, return_complex=True)
        return y.istft(8, 3, 8, window, center=center, normalized=True, length=x.shape[1] // 2 * 2)

    ranged = engine.Input(min_shape=(1, 11), opt_shape=(3, 12), max_shape=(4, 60))
    compiled = engine.compile(Computed(there_and_back), [ranged], runtime="interpreter", min_block_size=1)
    assert compiled.report.fallbacks == []
    for shape in ((1, 11), (2, 13), (4, 59), (3, 60)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), there_and_back(x), rtol=1e-4, atol=1e-4)
