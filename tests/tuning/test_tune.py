"""``tune``: what is measured, kept, replayed and reported.  Times here are the interpreter's, and are not asserted."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch._dynamo.exc import BackendCompilerFailed

import engine
from engine.commands.cli import cli
from engine.errors import FileError, SettingsError, TuningWarning
from engine.report.tuning import Decision, Tuning, Way
from engine.runtime import TorchTensorRTModule
from engine.tuning import tuner
from engine.tuning.decisions import Decisions, read
from engine.tuning.machine import Machine
from engine.tuning.questions import chosen
from tests.comparison import assert_agrees
from tests.rule_cache import with_rules
from tests.tuning.models import blocks, example_inputs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache of decisions that is empty."""
    monkeypatch.setenv("ENGINE_CACHE_DIR", str(with_rules(tmp_path / "cache")))
    return tmp_path


def tuned(model=None, args=example_inputs, **settings):
    return engine.compile(model or blocks(2), args, runtime="interpreter", **{"tune": True, **settings})


def networks(compiled):
    return [bytes(m.serialized_engine) for m in compiled.graph_module.children() if isinstance(m, TorchTensorRTModule)]


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A tuned model and the file of its decisions."""
    folder = tmp_path_factory.mktemp("tuned")
    before = os.environ["ENGINE_CACHE_DIR"]
    os.environ["ENGINE_CACHE_DIR"] = str(with_rules(folder / "cache"))
    try:
        compiled = tuned()
    finally:
        os.environ["ENGINE_CACHE_DIR"] = before
    compiled.report.tuning.save(folder / "decisions.json")
    return compiled, folder / "decisions.json"


def test_a_tuned_model_is_right_and_says_what_was_measured(once):
    compiled, _ = once
    assert_agrees(compiled, blocks(2), *example_inputs)
    tuning = compiled.report.tuning
    assert tuning.decisions
    assert all(len(decision.ways) > 1 for decision in tuning.decisions)
    assert all(way.ms is not None for decision in tuning.decisions for way in decision.ways)
    attention = next(d for d in tuning.decisions if d.rule == "attention.fused_attention")
    assert attention.places == 2
    assert attention.ways[0].name == "as rules decide"
    assert "without attention.fused_attention" in [way.name for way in attention.ways]
    assert "times are those of the interpreter" in str(tuning)
    assert str(tuning) in str(compiled.report)
    assert json.loads(json.dumps(compiled.report.as_dict()))["tuning"]["kept"] == tuning.kept
    assert compiled.report.timings.phases["tune"] > 0


def test_decisions_replay_to_the_same_networks(once):
    _, path = once
    first, second = tuned(tune=path), tuned(tune=str(path))
    assert networks(first) == networks(second)
    assert networks(first)
    assert first.report.rules_used == second.report.rules_used
    assert str(first.report.tuning) == str(second.report.tuning)
    assert "tune" not in first.report.timings.phases
    assert_agrees(first, blocks(2), *example_inputs)


def taking(path, rule, target, kept="tuned"):
    """A file like another one in which a decision about a rule takes its second way."""
    data = json.loads(path.read_text())
    for decision in data["decisions"]:
        decision["taken"] = int(decision["rule"] == rule)
    for model in data["models"]:
        model["kept"] = kept
    target.write_text(json.dumps(data))
    return target


def test_what_a_file_says_is_done(once, tmp_path):
    path = taking(once[1], "attention.fused_attention", tmp_path / "other.json")
    compiled = tuned(tune=path)
    assert "attention.fused_attention" not in compiled.report.rules_used
    assert compiled.report.rules_used["attention.matmul_attention"] == 2
    assert_agrees(compiled, blocks(2), *example_inputs)
    node = next(n for n in compiled.report.decisions.listed() if "attention" in n.op)
    assert "another way was measured to be faster" in str(compiled.report.why(node.node))


def test_decisions_hold_for_other_models_with_the_same_blocks(once, tmp_path):
    path = taking(once[1], "attention.fused_attention", tmp_path / "other.json")
    compiled = tuned(blocks(3), tune=path)
    assert compiled.report.rules_used["attention.matmul_attention"] == 3


def test_a_model_that_was_not_faster_tuned_stays_untuned(once, tmp_path):
    path = taking(once[1], "attention.fused_attention", tmp_path / "other.json", kept="untuned")
    compiled = tuned(tune=path)
    assert compiled.report.rules_used["attention.fused_attention"] == 2
    assert compiled.report.tuning.kept == "untuned"


def test_a_model_that_was_faster_in_pytorch_is_there(once, tmp_path):
    path = taking(once[1], "", tmp_path / "other.json", kept="pytorch")
    compiled = tuned(tune=path)
    assert compiled.report.coverage == 0
    assert {fallback.reason for fallback in compiled.report.fallbacks} == {
        "the whole model was measured to be faster in PyTorch (tune)"
    }
    assert "Inductor" in str(compiled.report)
    assert_agrees(compiled, blocks(2), *example_inputs)
    whole = tuned(tune=path, require_full_compilation=True)
    assert whole.report.coverage == 1


def test_without_time_nothing_is_taken(home):
    compiled = tuned(tune_budget=0)
    tuning = compiled.report.tuning
    assert not tuning.decisions
    assert tuning.unasked > 0
    assert tuning.kept == "untuned"
    assert networks(compiled) == networks(tuned(tune=False))


def test_what_was_measured_before_is_not_measured_again(home, monkeypatch):
    first = tuned()
    monkeypatch.setattr(tuner, "median_ms", None)
    monkeypatch.setattr(tuner, "recorded", None)
    second = tuned(tune_budget=0)
    assert {decision.source for decision in second.report.tuning.decisions} == {"cache"}
    assert not second.report.tuning.unasked
    assert networks(first) == networks(second)
    assert second.report.tuning.ms == first.report.tuning.ms


def test_blocks_of_another_model_are_known(home):
    tuned(blocks(2))
    decisions = tuned(blocks(3), tune_budget=0).report.tuning.decisions
    attention = next(d for d in decisions if d.rule == "attention.fused_attention")
    assert (attention.source, attention.places) == ("cache", 3)


@pytest.mark.parametrize("times", [[[2.0, 3.0]], [[2.0, 1.0]]], ids=["slower", "faster"])
def test_the_whole_is_never_slower(home, monkeypatch, times):
    """The times of whole modules are given here, so that the outcome is."""
    found = iter(times[0] for _ in range(9))
    monkeypatch.setattr(tuner, "median_ms", lambda calls, on_gpu: next(found))
    monkeypatch.setattr(tuner, "decided", faster_without_fused_attention)
    compiled = tuned()
    tuning = compiled.report.tuning
    if times[0][1] > times[0][0]:
        assert tuning.kept == "untuned"
        assert compiled.report.rules_used["attention.fused_attention"] == 2
        assert not any(decision.taken for decision in tuning.decisions)
        assert "the whole is not faster with it" in str(tuning)
    else:
        assert tuning.kept == "tuned"
        assert "attention.fused_attention" not in compiled.report.rules_used
        assert "2.00 times as fast as untuned" in str(tuning)
    assert_agrees(compiled, blocks(2), *example_inputs)


def faster_without_fused_attention(question, compiler, inputs, device, tolerance):
    site = question.site
    ways = (Way("as rules decide", ms=2.0, error=0.0), Way("without it", (tuple(site),), ms=1.0, error=0.0))
    taken = int(site.rule == "attention.fused_attention")
    return Decision(site.rule, site.structure, question.what, len(question.places), ways, taken, 0.0)


def test_a_way_that_is_not_exact_enough_is_not_taken():
    ways = [Way("as rules decide", ms=2.0, error=1e-4), Way("a", ms=1.0, error=9e-4), Way("b", ms=1.5, error=3e-4)]
    found, taken = chosen(ways, eager_error=1e-4, tolerance=4.0)
    assert taken == 2
    assert "tune_tolerance=4" in found[1].why_not
    assert chosen(ways, eager_error=1e-4, tolerance=10.0)[1] == 1
    assert chosen(ways, eager_error=1e-4, tolerance=0.0)[1] == 0
    # What is no worse than the untuned module is always exact enough.
    assert chosen([dataclasses.replace(ways[0], error=1e-3), ways[1]], eager_error=1e-4, tolerance=0.0)[1] == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure on")
def test_without_a_gpu_there_is_nothing_to_measure_on():
    with pytest.raises(SettingsError, match=r"tune=True measures on a GPU, and there is none here.*decisions\.json"):
        engine.compile(blocks(1), example_inputs, tune=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tune": 3}, "tune is True, False or the path of a file with decisions, not 3"),
        ({"tune": ""}, "tune is True, False or the path of a file"),
        ({"tune_budget": -1}, "tune_budget is a number, 0 or more, not -1"),
        ({"tune_budget": float("nan")}, "tune_budget is a number, 0 or more"),
        ({"tune_tolerance": "much"}, "tune_tolerance is a number, 0 or more, not 'much'"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        engine.compile(blocks(1), example_inputs, runtime="interpreter", **settings)


def damage(path, how):
    data = json.loads(path.read_text())
    how(data)
    return json.dumps(data)


DAMAGES = {
    "nothing": lambda path: "",
    "no JSON": lambda path: path.read_text()[:-40],
    "other JSON": lambda path: "[1, 2]",
    "another format": lambda path: damage(path, lambda data: data.update(format="timing cache")),
    "a later schema": lambda path: damage(path, lambda data: data.update(schema=99)),
    "no machine": lambda path: damage(path, lambda data: data.pop("machine")),
    "a machine of another kind": lambda path: damage(path, lambda data: data.update(machine={"gpu": "x"})),
    "a way that is not there": lambda path: damage(path, lambda data: data["decisions"][0].update(taken=9)),
    "no number": lambda path: damage(path, lambda data: data["decisions"][0]["ways"][0].update(ms="fast")),
    "no pair": lambda path: damage(path, lambda data: data["decisions"][0]["ways"][0].update(left_out=[["a"]])),
    "kept elsewhere": lambda path: damage(path, lambda data: data["models"][0].update(kept="moon")),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_files(once, tmp_path, how):
    path = tmp_path / "damaged.json"
    path.write_text(DAMAGES[how](once[1]))
    with pytest.raises(FileError, match=r"damaged\.json is no file of decisions, or damaged: .*`engine tune`") as error:
        tuned(tune=path)
    assert "\n" not in str(error.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileError, match=r"there is no file .*none\.json: `engine tune MODEL\.pt2 -o"):
        tuned(tune=tmp_path / "none.json")
    with pytest.raises(FileError, match="is a folder, not a file"):
        tuned(tune=tmp_path)


def test_decisions_of_another_tensorrt_are_not_used(once, tmp_path):
    path = taking(once[1], "attention.fused_attention", tmp_path / "other.json")
    data = json.loads(path.read_text())
    data["machine"]["tensorrt"] = "TensorRT 10.1"
    path.write_text(json.dumps(data))
    with pytest.warns(TuningWarning, match=r"is of .*TensorRT 10\.1.*and this is .*: its decisions are not used"):
        compiled = tuned(tune=path)
    assert compiled.report.rules_used["attention.fused_attention"] == 2
    assert compiled.report.tuning.kept == "untuned"


def test_decisions_of_a_gpu_are_used_where_there_is_none(once, tmp_path):
    path = taking(once[1], "attention.fused_attention", tmp_path / "other.json")
    data = json.loads(path.read_text())
    data["machine"].update(gpu="NVIDIA H200", capability="9.0")
    path.write_text(json.dumps(data))
    compiled = tuned(tune=path)
    assert "attention.fused_attention" not in compiled.report.rules_used
    assert "tuned on NVIDIA H200 (compute capability 9.0)" in str(compiled.report)


def test_decisions_with_other_rules_are_used_and_that_is_said(once):
    rules = engine.RuleSet.load().without("rotary.*")
    report = tuned(tune=once[1], rules=[rules]).report
    assert "the decisions were measured with other rules" in str(report)


def test_a_damaged_cache_is_measured_anew(home, caplog):
    tuned(blocks(1))
    (path,) = (home / "cache" / "tuning").glob("*.json")
    whole = path.read_text()
    path.write_text(whole[:100])
    again = tuned(blocks(1))
    assert {decision.source for decision in again.report.tuning.decisions} == {"measured"}
    assert "is no file of decisions, or damaged" in caplog.text
    assert read(path).decisions.keys() == {*map(tuple, (d["site"] for d in sites(whole)))}


def sites(text):
    return [{"site": (d["rule"], d["structure"])} for d in json.loads(text)["decisions"]]


# In processes that have imported the same packages: which rules there are, and so whose decisions, depends on that.
_PROCESS = """
import sys
import engine
from tests.tuning.models import blocks, example_inputs
import torch
size, budget = int(sys.argv[1]), float(sys.argv[2])
args = (torch.randn(2, size, 16),)
compiled = engine.compile(blocks(1), args, runtime="interpreter", tune=True, tune_budget=budget)
print(sorted({decision.source for decision in compiled.report.tuning.decisions}))
"""


def test_processes_share_a_cache(home):
    def begun(size, budget):
        return subprocess.Popen(
            [sys.executable, "-c", _PROCESS, size, budget],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def said(process):
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        return output.strip()

    for process in [begun(size, "3000") for size in ("4", "5")]:
        assert said(process) == "['measured']"
    (path,) = (home / "cache" / "tuning").glob("*.json")
    read(path)
    for process in [begun(size, "0") for size in ("4", "5")]:
        assert said(process) == "['cache']"
    assert {left.suffix for left in path.parent.iterdir()} <= {".json", ".lock"}


def test_a_tuned_module_is_saved_with_its_report(once, tmp_path):
    compiled, _ = once
    engine.save(compiled, tmp_path / "model.pt2", program=True)
    loaded = engine.load(tmp_path / "model.pt2", runtime="interpreter")
    assert str(loaded.report.tuning) == str(compiled.report.tuning)
    with pytest.raises(engine.EngineError, match="a loaded module does not keep its decisions"):
        loaded.report.tuning.save(tmp_path / "again.json")


def test_what_cannot_be_written_is_an_error(once, tmp_path):
    with pytest.raises(FileError, match="cannot be written"):
        once[0].report.tuning.save(tmp_path / "none" / "decisions.json")
    assert os.listdir(tmp_path) == []


def test_a_file_is_read_as_it_was_written(once):
    found = read(once[1])
    assert found.text() == once[1].read_text()
    assert isinstance(found, Decisions)
    assert found.machine == Machine.here("interpreter")
    assert Tuning.of(once[0].report.tuning.as_dict()).decisions == once[0].report.tuning.decisions


def test_the_command_writes_a_file_that_compile_replays(home):
    target = home / "decisions.json"
    arguments = ["tune", "tests.tuning.models:blocks", "-o", str(target), "--runtime", "interpreter", "--json"]
    result = CliRunner().invoke(cli, [*arguments, "--budget", "600"], catch_exceptions=False)
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert len(told["decisions"]) == len(read(target).decisions)
    compiled = tuned(blocks(3), tune=target)
    assert compiled.report.tuning.kept == told["kept"]


def test_the_command_asks_for_a_folder_that_is_there(home):
    arguments = ["tune", "tests.tuning.models:blocks", "-o", str(home / "none" / "d.json"), "--runtime", "interpreter"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "there is no folder" in result.output


def test_torch_compile_replays(once, tmp_path):
    path = taking(once[1], "attention.fused_attention", tmp_path / "other.json")
    model = blocks(2)
    options = {"runtime": "interpreter", "min_block_size": 1, "pass_through_build_failures": True}
    reports = []
    with torch.no_grad(), engine.observers.observe(after_compile=lambda event: reports.append(event.report)):
        torch.compile(model, backend="engine", options={**options, "tune": str(path)})(*example_inputs)
    assert reports[0].rules_used["attention.matmul_attention"] == 2
    torch._dynamo.reset()
    with pytest.raises(BackendCompilerFailed, match="measures nothing: tune the model with"):
        torch.compile(model, backend="engine", options={**options, "tune": True})(*example_inputs)


def test_coverage_replays_and_measures_nothing(once, tmp_path):
    path = taking(once[1], "attention.fused_attention", tmp_path / "other.json")
    report = engine.coverage(blocks(2), example_inputs, tune=path)
    assert "attention.fused_attention" not in report.rules_used
    report = engine.coverage(blocks(2), example_inputs, tune=True)
    assert report.rules_used["attention.fused_attention"] == 2
    assert "nothing was measured, so nothing is tuned" in str(report)
