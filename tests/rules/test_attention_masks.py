"""A constant mask is looked at when compiling: queries that see a key need no zeros in place of nan."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import engine
from tests.comparison import assert_agrees
from tests.layers import layer_kinds

LENGTH = 130


class Masked(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.mask = nn.Buffer(mask)

    def forward(self, q, k, v):
        return functional.scaled_dot_product_attention(q, k, v, self.mask)


def _compiled(mask):
    model, inputs = Masked(mask), torch.randn(3, 2, 2, LENGTH, 8).unbind()
    compiled = engine.compile(model, inputs, runtime="interpreter", require_full_compilation=True)
    assert_agrees(compiled, model, *inputs)
    return layer_kinds(compiled)


def _triangle(dtype):
    allowed = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    return allowed if dtype == torch.bool else torch.zeros(LENGTH, LENGTH).masked_fill(~allowed, -torch.inf)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_a_constant_mask_that_leaves_every_query_a_key(dtype):
    assert not {"SELECT", "REDUCE"} & {*_compiled(_triangle(dtype))}


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_a_constant_mask_that_leaves_a_query_none(dtype):
    mask = _triangle(dtype)
    mask[7] = False if dtype == torch.bool else -torch.inf
    assert {"SELECT", "REDUCE"} <= {*_compiled(mask)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bool_masks_where_the_size_of_a_head_is_dynamic(dtype):
    class Attention(nn.Module):
        def forward(self, x, scores):
            return functional.scaled_dot_product_attention(x, x, x, scores > 0)

    def inputs(head):
        return torch.randn(3, 2, 6, head).to(dtype), torch.randn(3, 2, 6, 6)

    model, dims = Attention(), ({3: torch.export.Dim("head", min=2, max=9)}, None)
    compiled = engine.compile(model, inputs(4), dynamic_shapes=dims, runtime="interpreter")
    for head in (2, 4, 7, 9):
        assert_agrees(compiled, model, *inputs(head), tolerance=1e-4 if dtype == torch.float32 else 2e-2)
