"""Families whose rules work together: complex numbers, spectra, bags and sampling, whole and with any size."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import engine
from tests.comparison import assert_agrees


class Call(nn.Module):
    """One function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *operands):
        return self.function(*operands)


def _rotated(x, angles):
    pairs = torch.view_as_complex(x.reshape(x.shape[0], x.shape[1], -1, 2))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(2)


def _filtered(x, w):
    spectrum = torch.fft.rfft2(x, dim=(1, 2), norm="ortho")
    return torch.fft.irfft2(spectrum * torch.view_as_complex(w), s=(6, 8), dim=(1, 2), norm="ortho")


def _round_trip(x):
    window = torch.hann_window(16)
    return torch.istft(torch.stft(x, 16, 4, window=window, return_complex=True), 16, 4, window=window)


WHOLE = {
    "global_filter": (_filtered, [torch.randn(2, 6, 8, 3), torch.randn(6, 5, 3, 2)]),
    "mixing": (lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real, [torch.randn(2, 6, 8)]),
    "round_trip": (_round_trip, [torch.randn(2, 100)]),
    "taken_apart": (lambda x: torch.fft.fft(x).abs(), [torch.randn(2, 1000)]),
    "bags": (
        lambda i, w, o: F.embedding_bag(i, w, o, mode="mean"),
        [torch.tensor([1, 5, 2, 2, 9]), torch.randn(10, 4), torch.tensor([0, 2, 2])],
    ),
    "cubic_border": (
        lambda x, g: F.grid_sample(x, g, mode="bicubic", padding_mode="border", align_corners=False),
        [torch.randn(2, 3, 4, 5), torch.randn(2, 6, 7, 2)],
    ),
    "put": (
        lambda x, v: x.put(torch.tensor([0, 5, 5]), v, accumulate=True),
        [torch.randn(3, 4), torch.randn(3)],
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_it_runs_whole(name):
    function, operands = WHOLE[name]
    compiled = engine.compile(
        Call(function), operands, min_block_size=1, require_full_compilation=True, runtime="interpreter"
    )
    assert_agrees(compiled, Call(function), *operands)


BATCH, TIME = Dim("batch", min=1, max=4), Dim("time", min=2, max=9)
DYNAMIC = {
    "rotated": (_rotated, lambda b, t: [torch.randn(b, t, 8), torch.randn(t, 4)], [{0: BATCH, 1: TIME}, {0: TIME}]),
    "spectrogram": (
        lambda x: torch.stft(x.flatten(1), 8, 3, center=False, return_complex=True, window=torch.ones(8)).abs(),
        lambda b, t: [torch.randn(b, t, 10)],
        [{0: BATCH, 1: TIME}],
    ),
    "volumes": (
        lambda x, g: F.grid_sample(x, g, padding_mode="reflection", align_corners=False),
        lambda b, t: [torch.randn(b, 2, 3, t, 4), torch.randn(b, t, 2, 3, 3)],
        [{0: BATCH, 3: TIME}, {0: BATCH, 1: TIME}],
    ),
    "rows_as_bags": (
        lambda i, w: F.embedding_bag(i, w, mode="sum"),
        lambda b, t: [torch.randint(0, 10, (b, 3)), torch.randn(10, t)],
        [{0: BATCH}, {1: TIME}],
    ),
}


@pytest.mark.parametrize("name", DYNAMIC)
def test_it_takes_any_size(name):
    function, operands, dims = DYNAMIC[name]
    compiled = engine.compile(
        Call(function), operands(2, 5), dynamic_shapes={"operands": tuple(dims)}, min_block_size=1,
        require_full_compilation=True, runtime="interpreter",
    )  # fmt: skip
    for batch, time in ((1, 2), (3, 5), (4, 9)):
        assert_agrees(compiled, Call(function), *operands(batch, time))


def test_complex_tensors_enter_and_leave_in_pytorch():
    model = Call(lambda x, y: (x * y.conj() + torch.fft.ifft(x), (x @ y.mT).abs()))
    operands = [torch.randn(3, 8, dtype=torch.complex64) for _ in range(2)]
    compiled = engine.compile(model, operands, min_block_size=1, runtime="interpreter")
    torch.testing.assert_close(compiled(*operands), model(*operands))
    ops = {fallback.op for fallback in compiled.report.fallbacks}
    assert ops == {"aten.real.default", "aten.imag.default", "aten.complex.default"}
