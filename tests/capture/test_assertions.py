"""What models assert of values: captured as if it held, and told; what is no assertion stays an error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.export import Dim

import engine
from engine.capture import capture
from engine.errors import CaptureError
from tests.capture import asserting
from tests.capture.asserting import asserted, caught, comparisons, known, looped, numbers, raised, ranges, sized
from tests.comparison import assert_agrees
from tests.graph.build import Function

LINES = {asserted: 1, raised: 2, ranges: 3, numbers: 2, comparisons: 2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("function", LINES, ids=lambda function: function.__name__)
def test_assertions_on_values(function: Any, dtype: torch.dtype) -> None:
    model, batch = Function(function), Dim("batch", min=1, max=5)
    compiled = engine.compile(model, (torch.randn(3, 4, dtype=dtype),), dynamic_shapes=(({0: batch},),))
    assert compiled.report.coverage == 1.0
    told = [note for note in compiled.report.notes if "does not check what the model asserts" in note]
    assert len(told) == LINES[function]
    assert all(f"in {function.__name__}: " in note and asserting.__file__ in note for note in told)
    for size in (1, 4, 5):
        assert_agrees(compiled, model, torch.randn(size, 4, dtype=dtype))


def test_what_is_asserted_of_a_size_is_promised() -> None:
    model = Function(sized)
    compiled = engine.compile(model, (torch.randn(2), torch.tensor(3)))
    for count in (1, 5, 8):
        assert_agrees(compiled, model, torch.randn(2), torch.tensor(count))


def test_assertions_that_are_known_are_decided() -> None:
    with pytest.raises(CaptureError, match="AssertionError"):
        capture(Function(known), (torch.randn(2),))


@pytest.mark.parametrize("function", [looped, caught])
def test_other_questions_about_values_are_errors(function: Any) -> None:
    with pytest.raises(CaptureError, match=f"in {function.__name__}: .*x"):
        capture(Function(function), (torch.randn(2),))


def test_pytorch_is_as_it_was() -> None:
    before = torch.equal, torch.allclose, vars(torch.Tensor).get("__bool__"), torch.SymBool.__bool__
    capture(Function(asserted), (torch.randn(2),))
    assert (torch.equal, torch.allclose, vars(torch.Tensor).get("__bool__"), torch.SymBool.__bool__) == before
    assert torch.tensor(True)
