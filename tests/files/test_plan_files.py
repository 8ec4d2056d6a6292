"""Plain plans with sidecars, alone and by the folder."""

import json
import random

import pytest
import torch

import engine
from engine.errors import EngineError, FileError, RuntimeUnavailable, SaveError
from engine.runtime import TensorSpec, TorchTensorRTModule
from tests.files.models import nested
from tests.runtime import networks


@pytest.fixture(scope="module")
def module():
    specs = {"input_specs": [TensorSpec((2, 3), torch.float32)], "output_specs": [TensorSpec((2, 3), torch.float32)]}
    return networks.relu().module(name="relu", **specs)


def test_a_plan_and_its_sidecar(module, tmp_path):
    engine.save(module, tmp_path / "relu.plan")
    assert (tmp_path / "relu.plan").read_bytes() == module.serialized_engine
    names = json.loads((tmp_path / "relu.json").read_text())
    assert (names["name"], names["inputs"], names["outputs"]) == ("relu", ["x"], ["out0"])
    assert names["input_specs"] == [{"shape": [2, 3], "dtype": "float32"}]
    loaded = engine.load(tmp_path / "relu.plan")
    assert isinstance(loaded, TorchTensorRTModule)
    assert loaded.serialized_engine == module.serialized_engine
    assert loaded.input_specs == module.input_specs
    assert loaded.output_specs == module.output_specs
    assert loaded.name == "relu"
    engine.save(loaded, tmp_path / "again.engine")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "relu.json").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4
    assert engine.files.inspect(tmp_path / "relu.plan")["engines"][0]["inputs"] == ["x"]


def test_a_compiled_module_of_one_engine(tmp_path):
    compiled = engine.compile(torch.nn.Linear(3, 2), (torch.ones(1, 3),), runtime="interpreter", min_block_size=1)
    engine.save(compiled, tmp_path / "x.trt")
    loaded = engine.load(tmp_path / "x.trt")
    assert loaded.serialized_engine == compiled.graph_module.engine_0.serialized_engine
    record = engine.files.inspect(tmp_path / "x.trt")["engines"][0]
    assert record["tensorrt"] == compiled.report.tensorrt
    with pytest.raises(EngineError, match=r'runtime="interpreter" runs a network'):
        engine.load(tmp_path / "x.trt", runtime="interpreter")


def test_several_engines_go_to_a_folder(tmp_path):
    compiled = nested(dynamic=False)
    with pytest.raises(SaveError, match="2 engines and 1 segments that run in PyTorch: give a folder"):
        engine.save(compiled, tmp_path / "x.plan")
    assert not list(tmp_path.iterdir())
    engine.save(compiled, tmp_path / "plans", format="plan")
    names = sorted(item.name for item in (tmp_path / "plans").iterdir())
    assert names == ["engine_0.json", "engine_0.plan", "engine_1.json", "engine_1.plan", "report.json"]
    loaded = engine.load(tmp_path / "plans" / "engine_1.plan")
    assert loaded.output_specs == compiled.graph_module.engine_1.output_specs
    assert loaded.settings == compiled.graph_module.engine_1.settings


def test_a_plan_without_a_sidecar(module, tmp_path):
    (tmp_path / "bare.plan").write_bytes(module.serialized_engine)
    if torch.cuda.is_available():
        assert engine.load(tmp_path / "bare.plan").input_binding_names == ["x"]
    else:
        with pytest.raises(RuntimeUnavailable, match=r"use TorchTensorRTModule\(plan, inputs, outputs\)"):
            engine.load(tmp_path / "bare.plan")


def test_a_hundred_corruptions_of_a_plan(module, tmp_path):
    engine.save(module, tmp_path / "x.plan")
    numbers = random.Random(0)
    for kind in ["flip"] * 60 + ["cut"] * 20 + ["other"] * 20:
        bad = bytearray(module.serialized_engine)
        place = numbers.randrange(len(bad))
        if kind == "flip":
            bad[place] ^= 1 << numbers.randrange(8)
        elif kind == "cut":
            del bad[place:]
        else:
            bad = bytearray(numbers.randbytes(place + 1))
        (tmp_path / "x.plan").write_bytes(bad)
        with pytest.raises(FileError):
            engine.load(tmp_path / "x.plan")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"record": 3}', '{"record": ["10"]}', "[" * 100_000])
def test_sidecars_of_something_else(module, tmp_path, content):
    (tmp_path / "x.plan").write_bytes(module.serialized_engine)
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(FileError, match=r"x\.json"):
        engine.load(tmp_path / "x.plan")
