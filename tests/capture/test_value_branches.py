"""Branches on values: both sides computed and one chosen, where the code can be written so; an error elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

import engine
from engine.capture import capture
from engine.errors import CaptureError
from tests.capture import branching
from tests.capture.branching import Overflow, Refused, Returned, Sided, Sides, closed
from tests.comparison import assert_agrees

SIDES = "both sides of a branch on values are computed"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("model", "lines"),
    [(Overflow(), 1), (Sided(), 3), (Returned(), 1), (closed(1.5), 1)],
    ids=lambda item: str(item)[:6],
)
def test_one_of_two_sides_is_chosen(model: nn.Module, lines: int, dtype: torch.dtype) -> None:
    model, batch, code = model.eval().to(dtype), Dim("batch", min=1, max=4), type(model).forward.__code__
    compiled = engine.compile(model, (torch.randn(2, 8, dtype=dtype),), dynamic_shapes=({0: batch},))
    assert type(model).forward.__code__ is code
    assert compiled.report.coverage == 1.0
    wanted = 0 if isinstance(model, Overflow) and dtype is torch.float32 else lines
    assert sum(SIDES in note and branching.__file__ in note for note in compiled.report.notes) == wanted
    for x in (torch.randn(1, 8), -torch.rand(4, 8), torch.rand(3, 8) + 0.5, torch.full((2, 8), 300.0)):
        assert_agrees(compiled, model, x.to(dtype), tolerance=1e-4 if dtype is torch.float32 else 1e-2)
    if isinstance(model, Overflow) and dtype is torch.float16:
        large = torch.full((2, 8), 6e4, dtype=dtype)
        with torch.no_grad():
            model.layers[0].weight.fill_(1)
            model.layers[1].weight.fill_(0.125)
        compiled = engine.compile(model, (large,))
        assert_agrees(compiled, model, large, tolerance=1e-2)
        assert compiled(large).isfinite().all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("in_place", "decides something by the values"),
        ("written_in_place", "decides something by the values"),
        ("with_a_loop", "decides something by the values"),
        ("other_shapes", r"between a tensor of float32 with shape \[3\] and a tensor of float32 with shape \[2, 3\]"),
        ("other_dtypes", "between a tensor of float64"),
        ("numbers", "between 2 and 3"),
    ],
)
def test_what_no_graph_can_choose_is_an_error(name: str, message: str) -> None:
    function: Any = getattr(branching, name)
    code = function.__code__
    with pytest.raises(CaptureError, match=message) as caught:
        capture(Refused(function), (torch.randn(2, 3),))
    assert f"in {name}: " in str(caught.value)
    assert branching.__file__ in str(caught.value)
    assert function.__code__ is code


def test_a_pair_of_names_is_left_alone() -> None:
    with pytest.raises(CaptureError, match="decides something by the values"):
        capture(Sides(), (torch.randn(2, 3),))
