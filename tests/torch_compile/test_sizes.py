"""Sizes of the graphs of Dynamo: symbols that must be equal for an operator, and numbers that calls give."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import engine
import engine.torch_compile.backend


class Step(nn.Module):
    """A token's keys and values after those that are there, and attention to all of them, by groups of heads."""

    def forward(self, query, keys, values, mask=None):
        keys, values = torch.cat([keys, query[:, :2]], 2), torch.cat([values, query[:, 2:]], 2)
        return F.scaled_dot_product_attention(query, keys, values, mask, enable_gqa=True), keys, values


def tensors(length, others=None, mask=None):
    shapes = [(1, 4, 1, 8), (1, 2, length, 8), (1, 2, others or length, 8)]
    return [*map(torch.randn, shapes), *([torch.randn(1, 1, 1, mask)] if mask else [])]


@pytest.fixture
def compiled():
    torch._dynamo.reset()
    reports = []

    def make(model, **options):
        settings = {"runtime": "interpreter", "min_block_size": 1, "pass_through_build_failures": True}
        return torch.compile(model, backend="engine", options=settings, **options), reports

    with torch.no_grad(), engine.observe(after_compile=lambda event: reports.append(event.report)):
        yield make


def assert_equal(fast, model, call):
    for found, wanted in zip(fast(*call), model(*call), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("way", "masked"),
    [("sizes change", False), ("sizes change", True), ("dynamic from the first call", True), ("marked", False)],
)
def test_growing_keys_and_values_are_attended_to_in_one_engine(compiled, way, masked, capfd):
    model = Step()
    fast, reports = compiled(model, **({"dynamic": True} if way == "dynamic from the first call" else {}))
    for length in (5, 6, 7, 10, 40):
        call = tensors(length, mask=length + 1 if masked else None)
        if way == "marked":
            torch._dynamo.mark_dynamic(call[1], 2, min=2, max=64)
            torch._dynamo.mark_dynamic(call[2], 2)
            for mask in call[3:]:
                torch._dynamo.mark_dynamic(mask, 3)
        assert_equal(fast, model, call)
    # They grow from the first call on, and there is room for a thousand rows, or for as many as were marked.
    assert [(report.coverage, len(report.segments)) for report in reports] == [(1.0, 1)]
    assert capfd.readouterr().err == ""


def test_a_call_whose_sizes_differ_does_not_run_in_the_engine_that_takes_them_to_be_equal(compiled):
    class Both(nn.Module):
        def forward(self, query, keys, values):
            values = values[:, :, : keys.shape[2]]
            return F.scaled_dot_product_attention(query, keys, values, enable_gqa=True)

    model = Both()
    fast, reports = compiled(model)
    for length, others in ((5, 5), (6, 6), (6, 9), (7, 7), (8, 12)):
        call = tensors(length, others)
        torch.testing.assert_close(fast(*call), model(*call), atol=1e-5, rtol=1e-5)
    assert all(report.coverage == 1.0 for report in reports)


@pytest.mark.parametrize("first", [(5, 6), (6, 6)])
def test_sizes_that_need_not_be_equal_stay_apart(compiled, first):
    model = nn.Module()
    model.forward = lambda query, keys: F.scaled_dot_product_attention(query, keys, keys) + 1
    fast, reports = compiled(model, dynamic=True)
    for queries, keys in (first, (7, 9), (10, 10), (11, 4)):
        call = torch.randn(1, 2, queries, 8), torch.randn(1, 2, keys, 8)
        torch.testing.assert_close(fast(*call), model(*call), atol=1e-5, rtol=1e-5)
    assert len(reports) <= 2, "a symbol for both where the example's are equal, and then one for each"
    assert all(report.coverage == 1.0 for report in reports)


def test_a_number_that_a_branch_makes_of_the_one_size_is_the_other_as_well(compiled):
    class Window(nn.Module):
        def forward(self, query, keys, values):
            y = F.scaled_dot_product_attention(query, keys, values, enable_gqa=True)
            return y * 2 if keys.shape[2] == 8 else y

    model = Window()
    fast, reports = compiled(model)
    for length in (5, 6, 8, 7, 8):
        call = tensors(length)
        torch.testing.assert_close(fast(*call), model(*call), atol=1e-5, rtol=1e-5)
    assert [report.coverage for report in reports] == [1.0] * 3


@pytest.mark.parametrize("for_shapes", [False, True])
def test_a_number_that_calls_give_is_no_shape_to_tensorrt_unless_one_depends_on_it(compiled, for_shapes, caplog):
    model = nn.Module()
    model.forward = lambda x, count: x * 2 + (torch.ones(count).cumsum(0)[-1] if for_shapes else count)
    fast, reports = compiled(model)
    for count in (3, 5, 7):
        assert torch.equal(fast(torch.ones(2, 2), count), model(torch.ones(2, 2), count))
    assert [report.coverage for report in reports] == [1.0, 1.0]
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
