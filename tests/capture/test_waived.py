"""Relations between sizes that calls are not held against: they decide nothing, and what they hid is found."""

import pytest
import sympy
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim
from torch.utils._sympy import functions

import engine
from engine.capture import capture
from engine.capture.inputs import Range
from engine.capture.sizes.guards import Guard
from engine.capture.sizes.small_size_check import Difference
from engine.capture.sizes.waived import real_guards
from engine.errors import CaptureError, InputError
from engine.testing import as_module
from tests.comparison import assert_agrees

S, N = (sympy.Symbol(name, integer=True, positive=True) for name in "sn")


# Each takes the whole of an example whose sizes are multiples of 8.
CROPS = {
    "front": lambda x: x[:, x.shape[1] % 2 :] * 2,
    "back": lambda x: x[:, : x.shape[1] - x.shape[1] % 4].sum(1),
    "both": lambda x: x[:, x.shape[1] % 4 :, x.shape[2] % 2 :].mean((1, 2)),
    "products": lambda x: x[:, : x.shape[1] // 4 * 4].flatten(1) + 1,
    "padded": lambda x: F.pad(x, (0, 0, 0, -x.shape[1] % 8)).cumsum(1),
    "padded and cropped": lambda x: F.pad(x, (0, -x.shape[2] % 4))[:, :, : x.shape[2]] - x,
    "narrow": lambda x: x.narrow(1, 0, x.shape[1] - x.shape[1] % 2).flip(1),
    "beside": lambda x: torch.cat((x, x[:, x.shape[1] % 4 :]), 1).relu(),
}


@pytest.mark.parametrize("name", CROPS)
@pytest.mark.parametrize("lazily", [False, True], ids=["whole", "torch.compile"])
def test_an_example_that_divides_and_calls_that_do_not(name, lazily):
    model = as_module(CROPS[name])
    options = {"runtime": "interpreter", "min_block_size": 1}
    if lazily:
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="engine", options=options, dynamic=True)
    else:
        shapes = ({1: Dim.DYNAMIC(min=4, max=40), 2: Dim.DYNAMIC(min=2, max=40)},)
        compiled = engine.compile(model, (torch.randn(2, 16, 8),), dynamic_shapes=shapes, **options)
        assert compiled.report.coverage == 1.0
    for rows, columns in [(16, 8), (9, 8), (8, 5), (7, 7), (4, 3), (39, 21)]:
        with torch.no_grad():
            assert_agrees(compiled, model, torch.randn(2, rows, columns))


def test_what_is_waived_is_no_fact():
    captured = capture(as_module(CROPS["front"]), [torch.randn(2, 8)], dynamic_shapes=[{1: Dim.DYNAMIC(min=4, max=32)}])
    (size,) = captured.ranges
    whole = sympy.Eq(size, size - functions.Mod(size, 2))
    assert captured.guards == ()
    assert captured.sizes().decide(whole) is None
    assert captured.shape_env._maybe_evaluate_static(whole) is None


def test_what_is_asked_of_calls_is_a_fact():
    def halves(x):
        torch._check(x.shape[1] % 2 == 0)
        return x.view(x.shape[0], 2, x.shape[1] // 2)

    captured = capture(as_module(halves), [torch.randn(3, 8)], dynamic_shapes=[{1: Dim.DYNAMIC(min=4, max=32)}])
    (size,) = captured.ranges
    assert captured.sizes().decide(sympy.Eq(functions.Mod(size, 2), 0)) is True
    with pytest.raises(InputError, match=r"x\.shape\[1\] % 2 == 0"):
        captured.bind((torch.randn(3, 7),))


def test_sizes_of_one_decide_nothing():
    def pick(x):
        return x * torch.full((1,), torch.sym_min(x.shape[0], 2) + torch.sym_max(x.shape[0] // 2, 1))

    model = as_module(pick)
    captured = capture(model, [torch.randn(4, 3)], dynamic_shapes=[{0: Dim("n", min=1, max=8)}])
    (size,) = captured.ranges
    assert captured.sizes().decide(sympy.Ge(size, 2)) is None
    assert captured.sizes().decide(sympy.Ge(size, 1)) is True
    compiled = engine.compile(
        model,
        [torch.randn(4, 3)],
        dynamic_shapes=[{0: Dim("n", min=1, max=8)}],
        runtime="interpreter",
        min_block_size=1,
    )
    for rows in (1, 2, 3, 8):
        assert_agrees(compiled, model, torch.randn(rows, 3))


def test_an_empty_dim_decides_nothing():
    """To PyTorch's arithmetic the symbol of a size is positive: ``max(n, 1)`` is ``n`` before anybody asks."""
    model = as_module(lambda x: torch.cat((x, x.new_ones(torch.sym_max(x.shape[0], 1), 3))))
    named = [{0: Dim("n", max=8)}]
    captured = capture(model, [torch.randn(4, 3)], dynamic_shapes=named)
    assert list(captured.ranges.values()) == [Range(1, 4, 8)]
    assert "x.shape[0] > 0" in captured.notes[0]
    assert "[1, 3], not torch.float32 [0, 3]" in captured.notes[0]
    with pytest.raises(CaptureError, match=r"the range 0\.\.8, but the model only holds for sizes from 1 to 8"):
        capture(model, [torch.randn(4, 3)], dynamic_shapes=[{0: Dim.DYNAMIC(min=0, max=8)}])
    compiled = engine.compile(model, [torch.randn(4, 3)], dynamic_shapes=named, runtime="interpreter", min_block_size=1)
    for rows in (1, 5):
        assert_agrees(compiled, model, torch.randn(rows, 3))


def test_a_model_that_takes_no_empty_dim():
    model = as_module(lambda x: x.view(x.shape[0], -1) * 2)
    captured = capture(model, [torch.randn(4, 3)], dynamic_shapes=[{0: Dim("n", max=8)}])
    assert list(captured.ranges.values()) == [Range(1, 4, 8)]
    assert captured.notes == ()


def test_a_size_that_is_written_otherwise_where_it_divides():
    """A view of [s, 24] as [4, -1] has rows of 24 * (s // 4) for an example where 4 divides s."""

    def quarters(x):
        rows = x.reshape(x.shape[0], 4, -1)
        return rows * rows.shape[2]

    model = as_module(quarters)
    shapes = [{1: Dim.DYNAMIC(min=5, max=40)}]
    compiled = engine.compile(
        model, [torch.randn(2, 16, 24)], dynamic_shapes=shapes, runtime="interpreter", min_block_size=1
    )
    for size in (8, 16, 36):
        assert_agrees(compiled, model, torch.randn(2, size, 24))
    with pytest.raises(InputError, match=r"x\.shape\[1\] % 4 == 0"):
        compiled(torch.randn(2, 7, 24))


@pytest.mark.parametrize("training", [False, True])
def test_random_numbers_are_no_difference(training):
    model = as_module(lambda x: F.dropout(x[:, x.shape[1] % 2 :], 0.5, training=training))
    captured = capture(model, [torch.randn(4, 8)], dynamic_shapes=[{1: Dim.DYNAMIC(min=4, max=32)}])
    assert captured.guards == ()


def test_results_that_change_from_call_to_call_tell_nothing():
    calls = []

    class Counting(nn.Module):
        def forward(self, x):
            calls.append(None)
            return x[:, x.shape[1] % 2 :] * len(calls)

    captured = capture(Counting(), [torch.randn(4, 8)], dynamic_shapes=[{1: Dim.DYNAMIC(min=1, max=32)}])
    assert captured.guards == ()
    assert captured.ranges.popitem()[1].min == 1


def test_a_slice_that_is_cut_short_for_one_element():
    """The operator asks whether there are as many as ``max(n - m, 3)``, which PyTorch means to be as good for 1."""
    model = as_module(lambda x: x[:, : torch.sym_max(x.shape[1] - x.shape[0], 3)] * 2)
    inputs = [torch.randn(12, 8)]
    with pytest.raises(CaptureError, match=r"holds for sizes from [23] to 20"):
        capture(model, inputs, dynamic_shapes=[{1: Dim.DYNAMIC(min=1, max=20)}])
    compiled = engine.compile(
        model, inputs, dynamic_shapes=[{1: Dim.DYNAMIC(min=3, max=20)}], runtime="interpreter", min_block_size=1
    )
    for columns in (3, 8, 14, 20):
        assert_agrees(compiled, model, torch.randn(12, columns))


def outcomes(wrong, refused=lambda sizes: False):
    """A trial of a graph that is wrong at some sizes, of a model that refuses some."""
    tried = []

    def trial(sizes):
        tried.append(dict(sizes))
        if refused(sizes):
            return Difference("the model raises", refused=True)
        return Difference("other values") if wrong(sizes) else None

    return trial, tried


EVEN = Guard(sympy.Eq(functions.Mod(S, 2), 0))
LARGE = Guard(sympy.Ne(functions.FloorDiv(S, 4), 1))
SAME = Guard(sympy.Eq(N, functions.FloorDiv(N, 3) * 3))
RANGES = {S: Range(2, 8, 32), N: Range(2, 9, 32)}


def test_relations_share_a_trial():
    trial, tried = outcomes(lambda sizes: False)
    assert real_guards([EVEN, LARGE], [], RANGES, trial) == []
    (sizes,) = tried
    assert not EVEN.holds(sizes)
    assert not LARGE.holds(sizes)


def test_the_relation_at_fault_is_found():
    trial, _ = outcomes(lambda sizes: sizes[S] % 2 != 0)
    (found,) = real_guards([LARGE, SAME, EVEN], [], RANGES, trial)
    assert (found.relation, found.found) == (EVEN.relation, "other values")


def test_a_model_that_refuses_what_breaks_a_relation():
    trial, tried = outcomes(lambda sizes: False, refused=lambda sizes: sizes[N] % 3 != 0)
    (found,) = real_guards([SAME], [], RANGES, trial)
    assert found.relation == SAME.relation
    assert len(tried) > 1


def test_sizes_that_calls_cannot_have_are_not_tried():
    trial, tried = outcomes(lambda sizes: sizes[S] % 2 != 0)
    assert real_guards([LARGE], [EVEN], RANGES, trial) == []
    assert [sizes[S] for sizes in tried] == [6]
