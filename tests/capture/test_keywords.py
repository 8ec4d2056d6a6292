"""Models whose ``forward`` passes on whatever it is given have dynamic sizes like others."""

import pytest
import torch
from torch import nn
from torch.export import Dim

import engine
from tests.comparison import assert_agrees


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, scale=None, *, shift=None):
        y = self.linear(x).relu()
        y = y if scale is None else y * scale
        return y if shift is None else y + shift


class PassedOn(nn.Module):
    """As adapters and wrappers do it."""

    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs) + 1


class Some(PassedOn):
    """One argument has a name of its own."""

    def forward(self, x, **options):
        return self.inner(x.sin(), **options)


ROWS = {0: Dim("rows", min=1, max=9)}


def inputs(rows):
    return {"x": torch.randn(rows, 4), "shift": torch.randn(rows, 1)}


@pytest.mark.parametrize("model", [PassedOn, Some])
@pytest.mark.parametrize("form", ["by name", "of what collects", "inputs", "static"])
def test_dynamic_keywords(model, form):
    model = model().eval()
    shapes = {
        "by name": {"x": ROWS, "shift": ROWS},
        "of what collects": {"kwargs": {"x": ROWS, "shift": ROWS}}
        if type(model) is PassedOn
        else {"x": ROWS, "options": {"shift": ROWS}},
    }.get(form)
    kwargs = inputs(5)
    if form == "inputs":
        ends = ("min_shape", "opt_shape", "max_shape")
        kwargs = {
            name: engine.Input(**{end: (rows, x.shape[1]) for end, rows in zip(ends, (1, 5, 9), strict=True)})
            for name, x in kwargs.items()
        }
    before = dict(vars(model))
    compiled = engine.compile(model, (), kwargs, dynamic_shapes=shapes, runtime="interpreter", min_block_size=1)
    assert vars(model) == before
    assert compiled.report.coverage == 1.0
    for rows in (5,) if form == "static" else (1, 4, 9):
        assert_agrees(compiled, model, **inputs(rows))


def test_positions_beside_keywords():
    model = PassedOn().eval()
    shift = {"shift": torch.randn(5, 1)}
    compiled = engine.compile(model, (torch.randn(5, 4),), shift, runtime="interpreter", min_block_size=1)
    assert_agrees(compiled, model, torch.randn(5, 4), shift=torch.randn(5, 1))
