"""Complex values that begin otherwise than in a transform: numbers of Python, empty tensors, angles."""

import pytest
import torch
from torch import nn
from torch.export import Dim

import engine
from tests.comparison import assert_agrees


def _unit(x):
    return torch.exp(1j * x).real, torch.exp(1j * x).imag


def _spectrum(x):
    size, angle = x[:, :5].exp(), x[:, 3:8]
    return torch.fft.irfft(size * (torch.cos(angle) + 1j * torch.sin(angle)), n=8)


def _frames(x):
    size, angle = (part[..., None].expand(-1, -1, 7) for part in (x[:, :5], x[:, 3:8]))
    return torch.istft(size * (angle.cos() + 1j * angle.sin()), 8, 2, 8, torch.hann_window(8))


def _filled(x):
    start = x.new_zeros(x.shape[0], 8, dtype=torch.complex64)
    start[:, 2:5] = x[:, 2:5]
    return (
        start.real,
        (start + torch.ones_like(x, dtype=torch.complex64)).abs(),
        start.new_zeros(3, dtype=torch.complex64).imag,
    )


def _quotients(x):
    return (x / (x + 2j)).abs(), ((x + 1j) ** 2).angle(), (x - complex(1, 2)).conj().imag


def _converted(x):
    return (x.to(torch.complex64) * 2j).imag, torch.where(x > 0, x * 1j, torch.zeros((), dtype=torch.complex64)).imag


def _of_dynamic_sizes(x):
    start = torch.zeros(x.shape, dtype=torch.complex64)
    start[:, :4] = 1j * x[:, :4]
    ones = torch.ones(x.shape[0], 2, dtype=torch.complex64)
    return start.imag, torch.cat([ones, x * 1j], 1).abs(), (torch.full(x.shape, 1 + 2j) * x).imag


@pytest.mark.parametrize("function", [_unit, _spectrum, _frames, _filled, _quotients, _converted, _of_dynamic_sizes])
def test_complex_values(function):
    class Complex(nn.Module):
        def forward(self, x):
            return function(x)

    model = Complex()
    compiled = engine.compile(model, (torch.randn(3, 8),), dynamic_shapes=({0: Dim("batch", min=1, max=5)},))
    assert compiled.report.coverage == 1.0
    for batch in (1, 2, 5):
        assert_agrees(compiled, model, torch.randn(batch, 8))


@pytest.mark.parametrize("number", [2j, 1 - 1j])
def test_complex_numbers_in_half_precision(number):
    class Turned(nn.Module):
        def forward(self, x):
            return torch.view_as_real(x * number), (x + number).real

    model = Turned()
    compiled = engine.compile(model, (torch.randn(3, 8).half(),))
    assert compiled.report.coverage == 1.0
    assert_agrees(compiled, model, torch.randn(3, 8).half(), tolerance=2e-3)
