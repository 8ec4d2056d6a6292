"""Writing where a mask is true, and selecting by one."""

import pytest
import torch
from torch import nn
from torch.export import Dim

import engine
from tests.comparison import assert_agrees


def _put_number(x, mask):
    x = x.clone()
    x[:, mask] = 0.5
    return x


def _put_row(x, mask):
    x = x.clone()
    x[:, mask] = x[:, :1] + 1
    return x


def _doubled(x, mask):
    x = x.clone()
    x[:, mask] *= 2
    return x


def _moved(x, mask):
    y = torch.zeros_like(x)
    y[:, mask] = x.flip(0)[:, mask]
    return y


def _applied(x, mask):
    x = x.clone()
    x[:, mask] = x[:, mask].tanh()
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("function", [_put_number, _put_row, _doubled, _moved, _applied])
def test_writing_where_a_mask_is_true_needs_no_number_of_places(function, dtype):
    class Written(nn.Module):
        def forward(self, x, mask):
            return function(x, mask)

    model, rows, columns = Written(), Dim("rows", min=1, max=4), Dim("columns", min=2, max=9)
    x, mask = torch.randn(2, 5, 3, dtype=dtype), torch.tensor([True, False, False, True, False])
    dims = ({0: rows, 1: columns}, {0: columns})
    compiled = engine.compile(model, (x, mask), dynamic_shapes=dims)
    assert compiled.report.coverage == 1.0
    for b, t, value in ((1, 2, True), (4, 9, False), (3, 7, None)):
        mask = torch.rand(t) > 0.5 if value is None else torch.full((t,), value)
        assert_agrees(compiled, model, torch.randn(b, t, 3, dtype=dtype), mask)


def test_a_selection_by_a_mask_says_what_keeps_it_out():
    class Selected(nn.Module):
        def forward(self, x, mask):
            return x[:, mask] * 2

    report = engine.coverage(Selected(), (torch.randn(2, 3), torch.tensor([True, False, True])))
    (reason,) = [each.reason for each in report.fallbacks if each.op == "aten.index.Tensor"]
    assert reason.startswith("the size of its result depends on data; ")
