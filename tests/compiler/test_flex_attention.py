"""``flex_attention``: the graphs that change and mask its scores become part of the model's graph."""

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import engine
from tests.comparison import assert_agrees


class Slopes(nn.Module):
    """Scores that fall with the distance, by a slope per head."""

    def __init__(self):
        super().__init__()
        self.slopes = nn.Parameter(torch.randn(2))

    def forward(self, q, k, v):
        return flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: score + self.slopes[h] * (i - j))


class Causal(nn.Module):
    """A mask, and heads that share keys and values."""

    def forward(self, q, k, v):
        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, 16, 16, device="cpu")
        return flex_attention(
            q, k, v, score_mod=lambda score, b, h, i, j: torch.tanh(score / 20) * 20, block_mask=mask, enable_gqa=True
        )


@pytest.fixture(autouse=True)
def dynamo():
    """What Dynamo learned from one export it holds against the sizes of the next."""
    torch._dynamo.reset()


def _heads(count, length):
    return torch.randn(1, count, length, 8)


@pytest.mark.parametrize(("model", "heads"), [(Slopes, 2), (Causal, 4)])
def test_it_is_one_engine(model, heads):
    model, operands = model().eval(), [_heads(heads, 16), _heads(2, 16), _heads(2, 16)]
    compiled = engine.compile(model, operands, require_full_compilation=True, runtime="interpreter")
    assert_agrees(compiled, model, *operands)


def test_it_takes_any_length():
    model, dims = Slopes().eval(), {2: Dim("length", min=2, max=64)}
    compiled = engine.compile(
        model, [_heads(2, 16)] * 3, dynamic_shapes=[dims] * 3, require_full_compilation=True, runtime="interpreter"
    )
    for length in (3, 40):
        assert_agrees(compiled, model, _heads(2, length), _heads(2, length), _heads(2, length))
