"""What a model writes to under ``torch.compile``: after what reads the old values, and once."""

import copy

import pytest
import torch

import engine
import engine.torch_compile.backend
from tests.compiled.test_in_place_caches import Attention, call
from tests.compiled.test_state import MODELS, WritesInputs, cache, same, steps


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    with torch.no_grad():
        yield


def fast(model):
    return torch.compile(model, backend="engine", options={"runtime": "interpreter", "min_block_size": 1})


@pytest.mark.parametrize("name", ["before", "swapped", "shifted", "plain", "twice", "in_pytorch"])
def test_buffers_are_written_to(name, reports):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    same(fast(copy.deepcopy(model)), model, 5)
    assert len(reports) == 1


def test_buffers_that_are_assigned_become_inputs(reports):
    model = MODELS["assigned"]().eval()
    compiled, eager = fast(copy.deepcopy(model)), model
    same(compiled, eager, 8)
    assert len(reports) == 3
    same(compiled, eager, 2, first=8)
    assert len(reports) == 3


def test_inputs_are_written_to_by_the_graph(reports):
    model = WritesInputs()
    compiled, mine, its = fast(model), (cache(), cache()), (cache(), cache())
    for x, p in steps():
        torch.testing.assert_close(compiled(x, *mine, p), model(x, *its, p))
        torch.testing.assert_close(mine, its)
    assert [len(report.segments) for report in reports] == [1]
    assert any("writes to 2 inputs" in note for note in reports[0].notes)


def test_caches_are_written_in_place(reports):
    model = Attention("index_copy")
    compiled, eager = fast(copy.deepcopy(model)), model
    for i in range(4):
        torch.testing.assert_close(compiled(*call(i)), eager(*call(i)))
    assert [report.rules_used["caches.cache_row"] for report in reports] == [2]


def test_a_size_beyond_the_range_is_written_in_pytorch_where_building_fails(monkeypatch, reports):
    class Sums(torch.nn.Module):
        def forward(self, x, total):
            old = total.clone()
            total.add_(x.sum(0))
            return x * total, old

    compiled, eager, mine, its = fast(Sums()), Sums(), torch.zeros(4), torch.zeros(4)
    x = torch.ones(4, 4)
    torch._dynamo.mark_dynamic(x, 0)
    torch.testing.assert_close(compiled(x, mine), eager(x, its))

    def fails(*_):
        raise engine.EngineError("made to fail by a test")

    monkeypatch.setattr("engine.pipeline.compilation.Compilation.build", fails)
    with pytest.warns(engine.torch_compile.backend.FallbackWarning, match="made to fail"):
        found = compiled(torch.ones(300, 4), mine)
    torch.testing.assert_close(found, eager(torch.ones(300, 4), its))
    torch.testing.assert_close(mine, its)
