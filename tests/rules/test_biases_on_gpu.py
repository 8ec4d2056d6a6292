"""A bias is never lost: products with a bias and an activation behind them, and what models do with those.

TensorRT-RTX 1.6.1 loses it on an H200 where the activation is multiplied at once (see `apart` in `rules/layers.rules`).
"""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

import engine
from tests.comparison import assert_agrees

ACTIVATIONS = {"none": lambda x: x, "relu": functional.relu, "gelu": functional.gelu, "silu": functional.silu}
SIZES = [*itertools.product((1, 3, 8), (4, 8, 20), (4, 5, 32))]


class Gated(nn.Module):
    """A layer of which a vector that is computed scales the result, and is a result too."""

    def __init__(self, inputs, outputs, activation):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.activation = activation

    def forward(self, x, gate):
        moved = gate + 1
        return self.activation(self.linear(x)) * moved, moved


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_bias_is_never_lost(activation, dtype):
    torch.manual_seed(0)
    wrong = []
    for rows, inputs, outputs in SIZES:
        model = Gated(inputs, outputs, ACTIVATIONS[activation]).eval().cuda().to(dtype)
        args = [torch.randn(rows, inputs, device="cuda").to(dtype), torch.randn(outputs, device="cuda").to(dtype)]
        compiled = engine.compile(model, args, min_block_size=1, require_full_compilation=True)
        try:
            assert_agrees(compiled, model, *args, tolerance=2e-2)
        except AssertionError:
            wrong.append((rows, inputs, outputs))
    assert not wrong


class Multiplied(nn.Module):
    """Each way in which models multiply what an activation of a layer gives."""

    def __init__(self, activation):
        super().__init__()
        self.linear = nn.Linear(8, 16)
        self.gate = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.norm.running_mean = torch.randn(16)
        self.activation = activation

    def forward(self, x, scale):
        h = self.activation(self.linear(x))
        return (
            h * scale,
            h * h,
            h.pow(2),
            h * 0.5,
            h / scale,
            h * self.gate(x),
            self.norm(h),
            h.square() + h,
            -h * scale,
        )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [5, 70])
@pytest.mark.parametrize("activation", [*ACTIVATIONS, "relu6", "tanh", "gelu_tanh"])
def test_what_is_multiplied_keeps_its_bias(activation, rows, dtype):
    others = {"relu6": functional.relu6, "tanh": torch.tanh, "gelu_tanh": nn.GELU("tanh")}
    torch.manual_seed(0)
    model = Multiplied((ACTIVATIONS | others)[activation]).eval().cuda().to(dtype)
    args = (torch.randn(rows, 8, device="cuda").to(dtype), torch.rand(16, device="cuda").to(dtype) + 0.5)
    compiled = engine.compile(model, args, min_block_size=1, require_full_compilation=True)
    assert_agrees(compiled, model, *args, tolerance=2e-2)


class Negated(nn.Module):
    """A layer of which the negative is the only result."""

    def __init__(self, activation):
        super().__init__()
        self.linear = nn.Linear(8, 16)
        self.activation = activation

    def forward(self, x):
        return -self.activation(self.linear(x))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_negated_keeps_its_bias(activation, dtype):
    torch.manual_seed(0)
    model = Negated(ACTIVATIONS[activation]).eval().cuda().to(dtype)
    x = torch.randn(70, 8, device="cuda").to(dtype)
    compiled = engine.compile(model, (x,), min_block_size=1, require_full_compilation=True)
    assert_agrees(compiled, model, x, tolerance=2e-2)
