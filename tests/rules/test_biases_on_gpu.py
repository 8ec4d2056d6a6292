"""A bias is never lost: products with a bias and an activation behind them, of small and of uneven sizes.

On an H200, TensorRT-RTX 1.6.1 added the bias of `relu(x @ weight.T + bias)` of [3, 4] and [4, 4] in float32 to no row
but, perhaps, the first, as its release 1.4 does in kernels of one shape. The plan holds one product with bias and relu,
which is as it should be; the kernel is chosen when the engine is loaded. It showed where a vector that the engine
computes scales the result: of a layer and its relu alone TensorRT makes elementwise kernels at this size.
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
