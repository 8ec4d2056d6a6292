import operator

import pytest
import torch

from engine.errors import SettingsError
from engine.settings import CompilationSettings


def test_defaults_are_those_of_torch_tensorrt():
    settings = CompilationSettings()
    assert settings.min_block_size == 5
    assert settings.optimization_level is None
    assert settings.workspace_size == 0
    assert not settings.require_full_compilation
    assert settings.torch_executed_ops == frozenset()


def test_settings_are_immutable_and_hashable():
    settings = CompilationSettings(min_block_size=1)
    with pytest.raises(AttributeError):
        settings.min_block_size = 2
    assert hash(settings) == hash(CompilationSettings(min_block_size=1))
    assert settings.replace(debug=True).min_block_size == 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("min_block_sise", "min_block_size"),
        ("workspace", "workspace_size"),
        ("enabled_precisions", "strongly typed"),
        ("frobnicate", "known settings"),
    ],
)
def test_unknown_setting_names_the_nearest(name, hint):
    with pytest.raises(SettingsError, match=hint):
        CompilationSettings.from_kwargs(**{name: 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_block_size", 0),
        ("min_block_size", True),
        ("min_block_size", 2.5),
        ("optimization_level", 6),
        ("workspace_size", -1),
        ("debug", 1),
        ("trial_load", "yes"),
        ("target_compute_capabilities", ("8.9", "fast")),
        ("target_compute_capabilities", ("CURRENT", "8.9")),
        ("torch_executed_ops", {"aten.no_such_op"}),
        ("torch_executed_ops", {"aten.add.NoSuchOverload"}),
        ("torch_executed_ops", {3}),
    ],
)
def test_wrong_values_are_refused(name, value):
    with pytest.raises(SettingsError, match=name):
        CompilationSettings.from_kwargs(**{name: value})


def test_wrong_op_name_gets_a_suggestion():
    with pytest.raises(SettingsError, match=r"aten\.softmax"):
        CompilationSettings(torch_executed_ops={"torch.ops.aten.sofmax"})


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("torch.ops.aten.add", "aten.add"),
        ("torch.ops.aten.add.Tensor", "aten.add.Tensor"),
        ("aten.add.Tensor", "aten.add.Tensor"),
        ("aten::add", "aten.add"),
        (torch.ops.aten.add, "aten.add"),
        (torch.ops.aten.add.Tensor, "aten.add.Tensor"),
        (operator.mul, "operator.mul"),
        ("relu_3", "relu_3"),
    ],
)
def test_ops_are_named_in_one_way(given, stored):
    assert CompilationSettings(torch_executed_ops=[given]).torch_executed_ops == {stored}


def test_compute_capabilities_are_named_in_one_way():
    settings = CompilationSettings(target_compute_capabilities=["8.9", "sm_90", "SM120", "8.9"])
    assert settings.target_compute_capabilities == ("SM89", "SM90", "SM120")


def test_settings_survive_json():
    import json

    settings = CompilationSettings(torch_executed_ops={"aten.add", "relu_3"}, target_compute_capabilities=("8.0",))
    assert CompilationSettings.from_kwargs(**json.loads(json.dumps(settings.to_dict()))) == settings
