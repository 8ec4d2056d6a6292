"""Bad input and bad surroundings: each with a clear error, and nothing left behind."""

import os
import stat
import subprocess
import sys

import pytest
import torch
from torch import nn

import engine
from engine.errors import (
    CaptureError,
    EngineError,
    InputError,
    RuntimeUnavailable,
    SettingsError,
    TensorRTNotFound,
)
from engine.testing import portable


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x, y=None):
        return self.linear(x).relu() if y is None else self.linear(x).relu() + y


@pytest.fixture(scope="module")
def compiled():
    ranged = engine.Input(min_shape=(1, 8), opt_shape=(2, 8), max_shape=(4, 8))
    return engine.compile(Model().eval(), [ranged])


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


COMPILE = """
import torch, engine
try:
    compiled = engine.compile(torch.nn.ReLU(), [torch.randn(2)])
    print("compiled", compiled(torch.tensor([-1.0, 2.0])).tolist())
except engine.EngineError as error:
    print(type(error).__name__, error)
"""


# ------------------------------------------------------------------------------------ models


def test_a_model_that_cannot_be_exported(snapshot):
    class Branch(nn.Module):
        def forward(self, x):
            while x.sum() > 0:
                x = x - 1
            return x

    with pytest.raises(CaptureError) as caught:
        engine.compile(Branch(), [torch.randn(2)])
    text = str(caught.value)
    assert "torch.export could not take Branch" in text
    assert "test_errors.py" in text
    assert "try: " in text
    assert text.splitlines()[-1] == snapshot


def test_a_model_that_fails_by_itself():
    class Broken(nn.Module):
        def forward(self, x):
            return x @ torch.ones(3, 3)

    with pytest.raises(CaptureError, match=r"(?s)torch.export could not take Broken.*test_errors\.py"):
        engine.compile(Broken(), [torch.randn(2, 4)])


@pytest.mark.parametrize("model", [lambda x: x, None, "model.pt2", torch.ones(2)])
def test_what_is_no_model(model):
    with pytest.raises(CaptureError, match=r"pass an nn\.Module, an ExportedProgram or an fx\.GraphModule"):
        engine.compile(model, [torch.randn(2)])


@pytest.mark.parametrize("model", [lambda x: x, None, "model.pt2"])
def test_what_is_no_model_is_refused_before_the_first_call(model):
    with pytest.raises(CaptureError, match=r"pass an nn\.Module, an ExportedProgram or an fx\.GraphModule"):
        engine.compile(model)


# ------------------------------------------------------------------------------------ inputs


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        pytest.param((torch.randn(5, 8),), {}, id="too large"),
        pytest.param((torch.randn(0, 8),), {}, id="too small"),
        pytest.param((torch.randn(2, 9),), {}, id="static dim"),
        pytest.param((torch.randn(8),), {}, id="rank"),
        pytest.param((torch.randn(2, 8).double(),), {}, id="dtype"),
        pytest.param((torch.randn(2, 8, device="meta"),), {}, id="device"),
        pytest.param((), {}, id="none"),
        pytest.param((torch.randn(2, 8), torch.randn(2, 4)), {}, id="one more"),
        pytest.param((torch.randn(2, 8),) * 3, {}, id="too many"),
        pytest.param((torch.randn(2, 8),), {"z": 1}, id="unknown name"),
        pytest.param(([1.0],), {}, id="no tensor"),
        pytest.param((3,), {}, id="number"),
    ],
)
def test_inputs_that_do_not_fit(compiled, args, kwargs, snapshot):
    with pytest.raises(InputError) as caught:
        compiled(*args, **kwargs)
    assert str(caught.value) == snapshot


def test_a_wrong_call_leaves_the_model_usable(compiled):
    with pytest.raises(InputError):
        compiled(torch.randn(9, 8))
    assert compiled(torch.randn(4, 8)).shape == (4, 4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"shape": (1, 2), "min_shape": (1, 2)},
        {"min_shape": (1, 2), "opt_shape": (1, 2)},
        {"min_shape": (3, 2), "opt_shape": (2, 2), "max_shape": (4, 2)},
        {"min_shape": (3,), "opt_shape": (2, 2), "max_shape": (4, 2)},
        {"shape": (1, -2)},
        {"shape": (1, 2), "dtype": "float32"},
    ],
)
def test_ranges_that_cannot_be(arguments, snapshot):
    with pytest.raises(InputError) as caught:
        engine.Input(**arguments)
    assert str(caught.value) == snapshot


@pytest.mark.parametrize(
    "settings",
    [
        {"min_block_size": 0},
        {"min_block_size": "5"},
        {"require_full_compilation": 1},
        {"optimization_level": 9},
        {"workspace_size": -1},
        {"torch_executed_ops": [3]},
        {"target_compute_capabilities": ["fast"]},
        {"enabled_precisions": {torch.half}},
        {"min_blocksize": 3},
        {"no_such_thing": 3},
    ],
)
def test_settings_that_cannot_be(settings, snapshot):
    with pytest.raises(SettingsError) as caught:
        engine.compile(Model(), [torch.randn(2, 8)], **settings)
    assert str(caught.value) == snapshot


def test_settings_that_this_tensorrt_cannot_honour():
    from engine.tensorrt import capabilities

    if not capabilities().rtx:
        pytest.skip("describes TensorRT-RTX")
    with pytest.raises(SettingsError, match="version_compatible=True cannot be honoured by tensorrt_rtx"):
        engine.compile(Model(), [torch.randn(2, 8)], version_compatible=True)


def test_profiles_of_no_size():
    with pytest.raises(EngineError):
        engine.compile(Model(), [engine.Input(min_shape=(0, 8), opt_shape=(0, 8), max_shape=(0, 8)), "text"])


# ------------------------------------------------------------------------------------ surroundings


def test_no_tensorrt():
    done = run(COMPILE, ENGINE_TENSORRT="tensorrt")
    if done.stdout.startswith("compiled"):
        pytest.skip("tensorrt is installed")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("TensorRTNotFound no usable TensorRT is installed:")
    assert "pip install tensorrt-rtx" in done.stdout
    wrong = run(COMPILE, ENGINE_TENSORRT="cudnn")
    assert "TensorRTNotFound ENGINE_TENSORRT='cudnn' is not one of tensorrt, tensorrt_rtx" in wrong.stdout


def test_coverage_needs_no_tensorrt():
    code = "import torch, engine\nprint(engine.coverage(torch.nn.ReLU(), [torch.randn(2)]).coverage)"
    done = run(code, ENGINE_TENSORRT="tensorrt")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1.0"


def test_no_tensorrt_is_an_import_error():
    assert issubclass(TensorRTNotFound, ImportError)


@pytest.mark.skipif(torch.cuda.is_available(), reason="describes machines without a GPU")
def test_no_gpu():
    compiled = engine.compile(Model().eval(), [torch.randn(2, 8)], runtime="python")
    assert compiled.report.coverage == 1.0
    with pytest.raises(RuntimeUnavailable, match="no GPU can be used"):
        compiled(torch.randn(2, 8))


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it runs")
def test_the_cpp_runtime_without_a_gpu():
    with pytest.raises(RuntimeUnavailable, match=r"GPU|C\+\+"):
        engine.compile(Model().eval(), [torch.randn(2, 8)], runtime="cpp", min_block_size=1)(torch.randn(2, 8))


# ------------------------------------------------------------------------------------ the cache


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    done = run(COMPILE, ENGINE_CACHE_DIR=str(tmp_path / "cache"))
    assert done.stdout.startswith("compiled [0.0, 2.0]"), done.stderr
    assert str(tmp_path) in done.stderr


def test_a_cache_that_is_a_file(tmp_path):
    path = tmp_path / "cache"
    path.write_text("in the way")
    done = run(COMPILE, ENGINE_CACHE_DIR=str(path))
    assert done.stdout.startswith("compiled [0.0, 2.0]"), done.stderr
    assert str(path) in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
    assert path.read_text() == "in the way"


def test_two_processes_fill_the_cache_at_once(tmp_path):
    code = "import engine\nprint(engine.RuleSet.load().hash)"
    environment = {**os.environ, "ENGINE_CACHE_DIR": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    results = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert [stderr for _, stderr in results] == ["", ""]
    entries = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert entries
    assert not [path for path in entries if "tmp" in path.suffix]
    again = run(code, ENGINE_CACHE_DIR=str(tmp_path))
    assert again.stdout == results[0][0]


@pytest.mark.parametrize("damage", [b"", b"{", b"[1, 2]", b"\xff\x00"])
def test_a_damaged_cache_is_made_again(tmp_path, damage, monkeypatch):
    rules = tmp_path / "small.rules"
    rules.write_text("lower silu\n  match aten.silu(x)\n  emit  aten.mul.Tensor(x, aten.sigmoid(x))\n")
    monkeypatch.setenv("ENGINE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("engine.dsl.ruleset._recent", {})
    monkeypatch.setattr("engine.dsl.ruleset._MOST_RECENT", 0)
    before = engine.RuleSet.load(rules, builtin=False)
    entries = list((tmp_path / "cache").rglob("*.json"))
    assert len(entries) == 1
    whole = entries[0].read_bytes()
    entries[0].write_bytes(damage)
    after = engine.RuleSet.load(rules, builtin=False)
    assert (after.hash, [rule.id for rule in after.rules]) == (before.hash, ["small.silu"])
    assert entries[0].read_bytes() == whole


def test_messages_have_no_paths_of_this_package(compiled):
    with pytest.raises(InputError) as caught:
        compiled(torch.randn(9, 8))
    assert portable(str(caught.value), rule_lines=True) == str(caught.value)
