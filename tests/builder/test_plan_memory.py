"""Where plans lie: large ones in a file that is mapped, and nowhere twice."""

import copy

import pytest
import torch
from torch import nn

import engine
from benchmarks.build_memory import measure
from engine.runtime import TorchTensorRTModule


def compiled(width):
    torch.manual_seed(0)
    return engine.compile(nn.Linear(width, width).eval(), (torch.randn(1, width),), runtime="interpreter")


def held(module):
    return next(each for each in module.modules() if isinstance(each, TorchTensorRTModule))


def test_a_large_plan_is_saved_copied_and_loaded_from_where_it_lies(tmp_path):
    module = compiled(2100)
    plan = held(module).plan
    assert isinstance(plan, memoryview)
    assert plan.readonly
    assert "mmap" in type(plan.obj).__module__
    assert held(module).serialized_engine == plan
    assert held(copy.deepcopy(module)).plan is plan
    engine.save(module, tmp_path / "model.pt2", program=True)
    loaded = engine.load(tmp_path / "model.pt2", runtime="interpreter")
    assert held(loaded).plan == plan
    x = torch.randn(1, 2100)
    assert torch.equal(loaded(x), module(x))


def test_a_small_plan_stays_in_memory():
    plan = held(compiled(8)).plan
    assert isinstance(plan, memoryview)
    assert "mmap" not in type(plan.obj).__module__


def test_without_room_for_temporary_files_the_plan_stays_in_memory(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    plan = held(compiled(2100)).plan
    assert "mmap" not in type(plan.obj).__module__


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_building_takes_little_more_than_the_weights(dtype):
    weights, peak, after = measure("linear", dtype, 200 << 20, False)
    assert peak < 1.7 * weights  # of which TensorRT's own copy is 1
    assert after < 0.2 * weights
