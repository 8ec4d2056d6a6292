"""Equalities of sizes that composite operators need are asked of calls, though nobody asked for them while tracing."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import engine
from engine.capture import capture
from engine.errors import InputError
from tests.comparison import assert_agrees


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, y, z):
        return self.function(x, y, z)


class Step(nn.Module):
    """A new token's keys and values after those that are there."""

    def forward(self, new, keys, values):
        keys, values = torch.cat([keys, new], 2), torch.cat([values, new * 2], 2)
        return F.scaled_dot_product_attention(new, keys, values), keys, values


def ranged(low, usual, high):
    return engine.Input(min_shape=(1, 2, low, 8), opt_shape=(1, 2, usual, 8), max_shape=(1, 2, high, 8))


def test_keys_and_values_with_lengths_of_their_own(capfd):
    model = Step().eval()
    inputs = [torch.randn(1, 2, 1, 8), ranged(1, 6, 40), ranged(2, 6, 30)]
    compiled = engine.compile(model, inputs, runtime="interpreter", min_block_size=1)
    assert compiled.report.coverage == 1.0
    assert len(compiled.report.segments) == 1
    for length in (2, 7, 30):
        assert_agrees(compiled, model, torch.randn(1, 2, 1, 8), *torch.randn(2, 1, 2, length, 8))
    with pytest.raises(InputError, match="keys"):
        compiled(torch.randn(1, 2, 1, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 2, 6, 8))
    assert "torch/" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("function", "shapes", "dims", "different"),
    [
        (
            lambda x, y, z: F.bilinear(x, y, z),
            [(5, 3), (5, 4), (2, 3, 4)],
            [{0: Dim.DYNAMIC}, {0: Dim.DYNAMIC}, None],
            1,
        ),
        (
            lambda x, y, z: F.scaled_dot_product_attention(x, y, y, z),
            [(1, 2, 3, 8), (1, 2, 5, 8), (3, 5)],
            [None, {2: Dim.DYNAMIC}, {1: Dim.DYNAMIC}],
            1,
        ),
        (
            lambda x, y, z: F.scaled_dot_product_attention(x, y, z),
            [(5, 2, 5, 8), (5, 2, 5, 8), (5, 2, 5, 8)],
            [{0: Dim.DYNAMIC}, {0: Dim.DYNAMIC, 2: Dim.DYNAMIC}, {0: Dim.DYNAMIC, 2: Dim.DYNAMIC}],
            2,  # the batch and the length, which are equal by chance
        ),
    ],
    ids=["bilinear", "mask", "several sizes"],
)
def test_what_an_operator_needs_is_one_size(function, shapes, dims, different):
    captured = capture(Call(function), list(map(torch.randn, shapes)), dynamic_shapes=dims)
    sizes = [size for argument in captured.arguments for size in argument.shape if not isinstance(size, int)]
    assert len(set(sizes)) == len(captured.ranges) == different


def test_sizes_that_may_differ_stay_apart():
    model = Call(lambda x, y, z: F.scaled_dot_product_attention(x, y, z) + 1)
    shapes = [{2: Dim.DYNAMIC}, {2: Dim.DYNAMIC}, {2: Dim.DYNAMIC}]
    captured = capture(model, list(torch.randn(3, 1, 2, 8, 8)), dynamic_shapes=shapes)
    queries, keys, values = (argument.shape for argument in captured.arguments)
    assert keys[2] == values[2]
    assert queries[2] != keys[2]
