"""Sizes that were asked for are known while a model is traced: what holds for all of them is no guard."""

import pytest
import sympy
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim
from torch.utils._sympy import functions

from engine.capture import capture
from engine.graph.symbolic.all_sizes import holds_for_all

S, N = (sympy.Symbol(name, integer=True, positive=True) for name in "sn")


class Pair(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, y):
        return self.function(x, y)


def siamese(x, y):
    first, second = torch.cat([x, y]).sin().chunk(2)
    return first - second


def parts(x, y):
    first, second, third = torch.cat([x, y, x]).split(y.shape[0])
    return first * second + third


def repeated_heads(x, y):
    """As transformers' grouped queries: keys are repeated for the heads that share them."""
    keys = torch.cat([x, y], 1)[None]
    heads, length, size = keys.shape[1:]
    keys = keys[:, :, None].expand(1, heads, 3, length, size).reshape(1, 3 * heads, length, size)
    return F.scaled_dot_product_attention(keys[:, :, -1:], keys, keys)


FORMS = {"chunk": siamese, "split": parts, "tensor_split": lambda x, y: torch.cat([y, x]).tensor_split(2)[1] * 2}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("highest", [7, None])
def test_two_batches_together_and_apart(name, highest):
    model = Pair(FORMS[name])
    batch = Dim("batch", min=1, max=highest)
    captured = capture(model, [torch.randn(2, 3), torch.randn(2, 3)], dynamic_shapes=[{0: batch}, {0: batch}])
    (allowed,) = captured.ranges.values()
    assert (allowed.min, allowed.max) == (1, highest or 8)
    assert captured.guards == ()
    for rows in (1, 3, allowed.max):
        inputs = [torch.randn(rows, 3), torch.randn(rows, 3)]
        (result,) = captured.module()(*captured.bind(inputs))
        torch.testing.assert_close(result, model(*inputs))


def test_dims_that_follow_from_one_are_equal():
    half = Dim("half", min=1, max=4)
    model = Pair(siamese)
    captured = capture(model, [torch.randn(6, 3), torch.randn(6, 3)], dynamic_shapes=[{0: 2 * half}, {0: 2 * half}])
    assert len(captured.ranges) == 1
    for rows in (2, 6, 8):
        inputs = [torch.randn(rows, 3), torch.randn(rows, 3)]
        torch.testing.assert_close(captured.module()(*captured.bind(inputs))[0], model(*inputs))


def test_a_relation_that_the_solver_of_pytorch_does_not_see():
    model = Pair(repeated_heads)
    length = Dim("length", min=1, max=30)
    inputs = [torch.randn(2, 4, 8), torch.randn(2, 1, 8)]
    captured = capture(model, inputs, dynamic_shapes=[{1: length}, None])
    assert captured.guards == ()
    for size in (1, 2, 30):
        inputs = [torch.randn(2, size, 8), torch.randn(2, 1, 8)]
        torch.testing.assert_close(captured.module()(*captured.bind(inputs))[0], model(*inputs))


def test_a_bound_of_the_model_is_found_where_none_was_given():
    table = torch.randn(50, 3)
    model = Pair(lambda x, y: x + table[: x.shape[0]] + y)
    captured = capture(model, [torch.randn(2, 3), torch.randn(1, 3)], dynamic_shapes=[{0: Dim("rows", min=1)}, None])
    (allowed,) = captured.ranges.values()
    assert allowed.max == 50


def test_all_sizes_are_tried():
    ranges = {S: (1, 40), N: (2, 9)}
    for relation, holds in [
        (sympy.Eq(functions.FloorDiv(3 * S - 1, S), 2), True),
        (sympy.Ne(functions.FloorDiv(S, 2), 20), False),  # 40, the last one
        (sympy.Ne(functions.FloorDiv(S, 2), 21), True),
        (functions.PythonMod(-S, 8) + S <= 40, True),
        (sympy.Eq(functions.Mod(S + functions.PythonMod(-S, N), N), 0), True),
        (sympy.Eq(functions.Mod(S * N, 2), 0), False),
        (sympy.Ge(functions.TruncToInt(functions.IntTrueDiv(S * N, N)), S), True),
        (sympy.Lt(S, functions.Max(N, 41)), True),
        # Neither a division by zero nor a number that 64 bits do not hold.
        (sympy.Ge(functions.FloorDiv(N, S - 7), -100), False),
        (sympy.Gt(sympy.Pow(S * 10**9, 3) * N, 7), False),
    ]:
        assert holds_for_all(relation, ranges) is holds, relation
