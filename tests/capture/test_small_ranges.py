"""Ranges of few sizes, and of sizes from 0: tracing takes 0, 1 and the only size of a range for constants."""

import pytest
import torch
from torch import nn
from torch.export import Dim, export

import engine
from engine.capture import capture
from engine.errors import CaptureError
from tests.comparison import assert_agrees


class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(x).softmax(-1) * x.shape[0], x.flatten()


class Appended(nn.Module):
    def forward(self, past, new):
        rows = torch.cat([past, new * 2])
        return rows.cumsum(0), past.sum(0)


def ranged(low, usual, high):
    return engine.Input(min_shape=(low, 4), opt_shape=(usual, 4), max_shape=(high, 4))


@pytest.mark.parametrize("sizes", [(1, 1, 2), (1, 2, 2), (0, 1, 1), (0, 0, 1), (0, 1, 2), (2, 2, 3)])
@pytest.mark.parametrize("way", ["Input", "named", "hint"])
def test_every_size_of_a_small_range(sizes, way):
    model = Rows().eval()
    low, usual, high = sizes
    if way == "Input":
        captured = capture(model, [ranged(*sizes)])
    else:
        dim = Dim("n", min=low, max=high) if way == "named" else Dim.DYNAMIC(min=low, max=high)
        captured = capture(model, [torch.randn(usual, 4)], dynamic_shapes=[{0: dim}])
    (allowed,) = captured.ranges.values()
    assert tuple(allowed) == sizes
    assert captured.notes == ()
    run = captured.module()
    for size in range(low, high + 1):
        x = torch.randn(size, 4)
        torch.testing.assert_close(tuple(run(*captured.bind([x]))), model(x))


def test_two_small_dims():
    model = Rows().eval()
    given = engine.Input(min_shape=(1, 1, 4), opt_shape=(1, 2, 4), max_shape=(2, 2, 4))
    compiled = engine.compile(model, [given], runtime="interpreter", min_block_size=1)
    assert compiled.report.coverage == 1.0
    for shape in [(1, 1, 4), (1, 2, 4), (2, 1, 4), (2, 2, 4)]:
        assert_agrees(compiled, model, torch.randn(shape))


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("program", [False, True], ids=["module", "program"])
def test_a_named_dim_begins_at_0(rows, program):
    model = Appended().eval()
    args = (torch.randn(3 if program else rows, 4), torch.randn(2, 4))
    shapes = ({0: Dim("past", min=0, max=9)}, None)
    if program:
        compiled = engine.compile(export(model, args, dynamic_shapes=shapes), runtime="interpreter", min_block_size=1)
    else:
        compiled = engine.compile(model, args, dynamic_shapes=shapes, runtime="interpreter", min_block_size=1)
    assert compiled.report.coverage == 1.0
    for size in (0, 1, 9):
        assert_agrees(compiled, model, torch.randn(size, 4), torch.randn(2, 4))


def test_dims_that_follow_from_a_small_one():
    model = Appended().eval()
    half = Dim("half", min=1, max=2)
    captured = capture(model, [torch.randn(2, 4), torch.randn(3, 4)], dynamic_shapes=[{0: 2 * half}, None])
    assert [tuple(size) for size in captured.profile.inputs["past"]] == [(2, 2, 4), (4, 4, 4)]
    for size in (2, 4):
        x, y = torch.randn(size, 4), torch.randn(3, 4)
        torch.testing.assert_close(tuple(captured.module()(*captured.bind([x, y]))), model(x, y))


class Halved(nn.Module):
    """Frames of a spectrogram, halved; positions; attention among them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, 2, 1)
        self.places = nn.Parameter(torch.randn(20, 8))

    def forward(self, x):
        y = self.conv(x).permute(0, 2, 1)
        y = y + self.places[: y.shape[1]]
        return (y @ y.mT).softmax(-1) @ y


def test_a_size_that_becomes_one_on_the_way():
    """A lower bound that only tracing has, of a size that is made of the dim, is none."""
    model = Halved().eval()
    x = engine.Input(min_shape=(1, 4, 1), opt_shape=(2, 4, 9), max_shape=(3, 4, 40))
    captured = capture(model, [x])
    for shape in ((1, 4, 1), (1, 4, 2), (2, 4, 3), (3, 4, 40)):
        given = torch.randn(shape)
        torch.testing.assert_close(captured.module()(*captured.bind([given]))[0], model(given))


class BranchesOnOne(nn.Module):
    def forward(self, x):
        y = x[:, ::2]
        return y * 2 if y.shape[1] == 1 else y


def test_a_branch_on_a_size_that_becomes_one():
    with pytest.raises(CaptureError, match=r"sizes from 3 to 9.*\n.*in forward: return y \* 2 if"):
        capture(BranchesOnOne(), [engine.Input(min_shape=(1, 2), opt_shape=(2, 8), max_shape=(3, 9))])
