"""Control flow of the model: PyTorch runs it between engines."""

import pytest
import torch
from torch import nn
from torch._higher_order_ops.scan import scan

import engine
from tests.comparison import assert_agrees


class Choice(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda y: y.sin() * 2, lambda y: y.cos() * 3, (x,)).relu()


class Repetition(nn.Module):
    def forward(self, x):
        loop = torch._higher_order_ops.while_loop
        return loop(lambda i, y: i < 5, lambda i, y: (i + 1, y * 1.5), (torch.tensor(0), x))[1].relu()


class Running(nn.Module):
    def forward(self, x):
        return scan(lambda total, y: (total + y, (total * y).sin()), x[0] * 0, x, dim=0)[1].relu()


@pytest.mark.parametrize(
    ("model", "op"), [(Choice(), "cond"), (Repetition(), "while_loop"), (Running(), "scan")], ids=lambda item: str(item)
)
def test_pytorch_runs_it(model, op):
    compiled = engine.compile(model, [torch.randn(4, 4)], min_block_size=1, runtime="interpreter")
    assert [fallback.op for fallback in compiled.report.fallbacks] == [f"higher_order.{op}"]
    for sign in (1, -1):
        assert_agrees(compiled, model, sign * torch.rand(4, 4))
