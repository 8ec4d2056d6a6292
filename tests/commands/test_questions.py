"""`engine why`, `engine coverage` of several models, `engine trace`: what they answer, and how they exit."""

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch
from torch import nn

import engine
from engine.errors import InputError
from tests.commands.test_cli import run
from tests.operators import halves, swirl

MODELS = """
import torch
from tests.commands.test_questions import Deep, Shallow

class Inputs(Shallow):
    example_inputs = (torch.zeros(2, 8),)

class Told(Shallow):
    example_inputs = "f32[2, 8]"

class Needs(torch.nn.Module):
    def __init__(self, size):
        super().__init__()

def made():
    return Deep(), (torch.zeros(2, 8),)

number = 3
"""


class Deep(nn.Module):
    """Four ops that rules take, one that none takes, four again."""

    def __init__(self):
        super().__init__()
        self.inner = Shallow()
        self.outer = Shallow()

    def forward(self, x):
        return self.outer(swirl(self.inner(x)))


class Shallow(nn.Module):
    def forward(self, x):
        return (x.exp() + 1).relu().tanh()


class Pair(nn.Module):
    def forward(self, x):
        first, second = halves(x, 0.5)
        return torch.nn.functional.silu(first) + second


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    (folder / "questioned.py").write_text(MODELS)
    (folder / "ending.py").write_text("raise SystemExit(5)\n")
    (folder / "bare").mkdir()
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(Deep(), (torch.randn(2, 8),), dynamic_shapes={"x": {0: batch}})
    torch.export.save(program, folder / "deep.pt2")
    torch.export.save(torch.export.export(Shallow(), (torch.randn(2, 8),)), folder / "shallow.pt2")
    rule = "lower swirl\n  match engine_tests.swirl(x: floating)\n  emit  aten.mul.Tensor(aten.sin(x), x)\n"
    (folder / "my.rules").write_text(rule + "  test  x: f32[2, 3]\n")
    narrow = rule.replace("floating", "floating[N, _]").replace("emit", "when N % 4 == 0\n  emit")
    (folder / "fours.rules").write_text(narrow)
    engine.save(engine.compile(Shallow(), [torch.randn(2, 8)]), folder / "compiled.pt2")
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))


# ------------------------------------------------------------------------------------------ why


def test_why_names_each_rule_of_the_op_and_what_settles_a_size(here):
    said = run("why", "deep.pt2", "swirl", "--rules", "fours.rules").stdout
    assert "swirl = engine_tests.swirl.default(" in said
    assert "runs in PyTorch, in torch_0" in said
    assert "fours.swirl (fours.rules:1) does not apply:" in said
    assert "`N % 4 == 0` is not known when compiling: N is 1..8; `4 * Dim(...)` settles it" in said
    steps = [line.partition(":")[0] for line in said.splitlines() if not line.startswith(" ")][1:]
    assert steps == ["simplify", "lower", "decomposition", "convert"]


def test_why_writes_a_rule_to_begin_with(here, tmp_path):
    path = tmp_path / "new.rules"
    said = run("why", "deep.pt2", "swirl", "--new", path)
    assert "test  x: f32[A=1..8, 8]" in said.stdout
    text = path.read_text()
    refused = run("rules", "check", path, code=1).stderr
    assert refused.startswith(f"{path}:3:9: error: `WHAT_IT_COMPUTES` is a place to fill in: say what the rule emits\n")
    assert refused.count("error:") == 1
    path.write_text(text.replace("WHAT_IT_COMPUTES", "trt.elementwise(trt.unary(x, op=SIN), x, op=PROD)"))
    assert "fine" in run("rules", "check", path).stdout
    assert json.loads(run("coverage", "deep.pt2", "--rules", path, "--json").stdout)["coverage"] == 1
    assert "is there already" in run("why", "deep.pt2", "swirl", "--new", path, code=1).stderr


def test_a_skeleton_has_a_name_for_each_argument_and_a_place_for_each_output():
    answer = engine.coverage(Pair(), [torch.randn(2, 8)]).why("halves")
    assert "match engine_tests.halves(x, scale)\n" in answer.skeleton
    assert "emit  (WHAT_IT_COMPUTES_0, WHAT_IT_COMPUTES_1)  #" in answer.skeleton
    assert "test  x: f32[2, 8], scale = 0.5\n" in answer.skeleton


@torch.library.custom_op("engine_questions::cut", mutates_args=())
def cut(
    x: torch.Tensor, height: int, sizes: Sequence[int], gate: torch.Tensor | None = None, keep: bool = False
) -> torch.Tensor:
    return x[:height, : sizes[1]].clone()


@cut.register_fake
def _(x, height, sizes, gate=None, keep=False):
    return x.new_empty(height, sizes[1])


class Cut(nn.Module):
    def forward(self, x, y):
        return cut(x, y.shape[0], [y.shape[0], x.shape[1]])


def test_a_skeleton_has_sizes_that_are_known_at_run_time_and_arguments_at_their_defaults(tmp_path):
    x = engine.Input(min_shape=(8, 8), opt_shape=(8, 8), max_shape=(8, 16))
    y = engine.Input(min_shape=(3, 2), opt_shape=(4, 2), max_shape=(7, 2))
    skeleton = engine.coverage(Cut(), [x, y]).why("cut").skeleton
    assert "match engine_questions.cut(x, height, sizes, gate, keep)\n" in skeleton
    assert "test  x: f32[8, A=8..16], height = 3, sizes = [3, A], gate = none, keep = false\n" in skeleton
    path = tmp_path / "cut.rules"
    size = "aten.slice.Tensor(aten.slice.Tensor(x, 0, 0, height, 1), 1, 0, sizes[1], 1)"
    path.write_text(skeleton.replace("convert", "lower").replace("WHAT_IT_COMPUTES", f"aten.clone({size})"))
    report = engine.coverage(Cut(), [x, y], rules=str(path), min_block_size=1)
    assert report.coverage == 1


def test_why_of_nodes_in_engines_and_of_rewritten_ones():
    report = engine.coverage(Pair(), [torch.randn(2, 8)], min_block_size=1)
    answer = report.why("silu")
    assert answer.color == "tensorrt"
    assert [(tried.rule, tried.outcome) for tried in answer.steps[-1].tried] == [("activation.silu", "chosen")]
    assert answer.skeleton == ""
    rules = engine.RuleSet.from_text("lower mine\n  match aten.silu(x)\n  emit aten.relu(aten.relu(x))", builtin=True)
    report = engine.coverage(Pair(), [torch.randn(2, 8)], rules=rules, min_block_size=1)
    gone = report.why("silu")
    assert gone.op == "rewritten"
    assert "lower my.mine (my.rules:1): silu -> " in gone.history[0]
    for name in gone.now:
        assert report.why(name).op == "aten.relu.default"
    assert "input" in report.why("x").reason


def test_a_node_that_is_not_there_offers_others():
    report = engine.coverage(Pair(), [torch.randn(2, 8)])
    with pytest.raises(InputError, match="there is no node 'slu'; did you mean silu"):
        report.why("slu")


def test_fallbacks_come_most_costly_first():
    class Two(nn.Module):
        def forward(self, x):
            return swirl(swirl(x)[:, :1])

    report = engine.coverage(Two(), [torch.randn(4, 8)], min_block_size=1)
    assert [(item.node, item.elements) for item in report.costly()] == [("swirl", 64), ("swirl_1", 8)]


# ------------------------------------------------------------------------------------------ coverage


def test_coverage_counts_what_the_models_have(here):
    counted = run("coverage", "deep.pt2", "shallow.pt2", "--min-block-size", 1, "--by", "op").stdout
    lines = counted.split("\n")
    assert lines[2].split() == ["engine_tests.swirl.default", "1", "0%"]
    assert ["aten.exp.default", "3"] in [line.split()[:2] for line in lines]
    by_module = run("coverage", "deep.pt2", "--min-block-size", "1", "--by", "module").stdout
    rows = [line.split() for line in by_module.splitlines()[2:]]
    assert rows == [["-", "1", "0%"], ["inner", "4", "100%"], ["outer", "4", "100%"]]
    for by in ("reason", "rule", "segment"):
        assert f"nodes by {by}" in run("coverage", "deep.pt2", "--by", by).stdout


def test_coverage_says_what_would_win_most(here):
    report = engine.coverage(Deep(), [torch.randn(2, 8)])
    rule, size = report.gains()
    assert (rule.what, rule.nodes, rule.coverage, rule.segments, rule.merged) == (
        "a rule for engine_tests.swirl.default", 9, 1.0, 1, 0,
    )  # fmt: skip
    assert (size.what, size.nodes, size.segments) == ("min_block_size=3", 8, 3)
    for gain, settings in ((size, {"min_block_size": 3}), (rule, {"rules": "my.rules", "min_block_size": 5})):
        after = engine.coverage(Deep(), [torch.randn(2, 8)], **settings)
        assert after.coverage == pytest.approx(gain.coverage)
        assert len(after.segments) == gain.segments
    assert "a rule for engine_tests.swirl.default" in run("coverage", "deep.pt2", "--gains").stdout


def test_coverage_fails_under_what_is_asked(here):
    assert "under --fail-under 95" in run("coverage", "deep.pt2", "shallow.pt2", "--fail-under", 95, code=1).stderr
    run("coverage", "deep.pt2", "--rules", "my.rules", "--fail-under", 95)


def test_coverage_compares_with_runs_rules_and_settings(here, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(run("coverage", "deep.pt2", "--json").stdout)
    said = run("coverage", "deep.pt2", "--rules", "my.rules", "--diff", path).stdout
    assert "deep.pt2: coverage 0.0% -> 100.0%" in said
    assert "swirl  engine_tests.swirl.default: gone, PyTorch (no rule converts" in said
    assert "coverage 0.0% -> 100.0%" in run("coverage", "deep.pt2", "--rules", "my.rules", "--diff", "builtin").stdout
    assert "coverage 100.0% -> 0.0%" in run("coverage", "deep.pt2", "--diff", "my.rules").stdout
    said = run("coverage", "deep.pt2", "--diff", "min_block_size=1").stdout
    assert "coverage 88.9% -> 0.0%" in said
    assert "exp  aten.exp.default: elementary.unary" in said
    path.write_text("{}")
    assert "is no output of `engine coverage --json`" in run("coverage", "deep.pt2", "--diff", path, code=1).stderr


def test_rules_that_never_fire_are_told(here):
    said = run("coverage", "deep.pt2", "shallow.pt2", "--rules", "my.rules", "--rules", "fours.rules").stdout
    assert "rules that fired in no model: fours.swirl" in said


def test_the_json_has_a_version_and_says_everything_of_a_node(here):
    one = json.loads(run("coverage", "deep.pt2", "--json").stdout)
    assert one["schema"] == 1
    assert set(one["decisions"][0]) == {
        "node", "op", "color", "segment", "rule", "rule_at", "reason", "module", "source",
    }  # fmt: skip
    several = json.loads(run("coverage", "deep.pt2", "shallow.pt2", "--json", "--gains").stdout)
    assert several["schema"] == 1
    assert [model["model"] for model in several["models"]] == ["deep.pt2", "shallow.pt2"]
    assert several["models"][0]["gains"][0]["what"] == "a rule for engine_tests.swirl.default"


def test_a_report_can_be_asked_and_printed():
    report = engine.coverage(Deep(), [torch.randn(2, 8)], min_block_size=1)
    assert [decision.node for decision in report.query(color="torch")] == ["swirl"]
    assert {decision.op for decision in report.query(module="in*", op="*.relu.*")} == {"aten.relu.default"}
    with pytest.raises(InputError, match="nodes have no 'colour'; there are node, op, color"):
        report.query(colour="torch")
    again = engine.coverage(Deep(), [torch.randn(2, 8)], min_block_size=1)
    assert str(report) == str(again)
    assert report._repr_html_().startswith("<pre>Deep: coverage 88.9%")


def test_the_phases_sum_up_to_the_wall_time():
    import time

    started = time.perf_counter()
    report = engine.compile(Shallow(), [torch.randn(2, 8)]).report
    wall = time.perf_counter() - started
    assert report.timings.total == pytest.approx(wall, rel=0.02, abs=0.005)
    assert sum(report.timings.phases.values()) == report.timings.total


# ------------------------------------------------------------------------------------------ models and trace


def test_models_of_modules(here):
    assert "questioned:Inputs: coverage" in run("coverage", "questioned:Inputs").stdout
    assert "9 nodes" in run("coverage", "questioned:made").stdout
    said = run("coverage", "questioned:Shallow", "--input", "f32[1..4, 8]").stdout
    assert "coverage 100.0%" in said


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.pt2"], 2, "there is no nowhere.pt2"),
        (["nowhere:Model"], 2, "there is no module nowhere"),
        (["questioned:Shalow"], 2, "did you mean `Shallow`?"),
        (["questioned:number"], 1, "gives 'int', and no torch.nn.Module"),
        (["questioned:Told"], 1, "`example_inputs` of questioned:Told is 'str'; let it be a tuple of tensors"),
        (["questioned:Shallow", "--input", "f32[8..2, 8]"], 2, "it must be min <= opt <= max"),
        (["questioned:Shallow", "--input", f"f32[{10**30}, 8]"], 1, "no example of"),
        (["ending:Model"], 1, "ending cannot be imported: SystemExit: 5"),
        (["deep.pt2", "--diff", ""], 2, "it is empty"),
        (["deep.pt2", "--fail-under", "nan"], 2, "is not in the range"),
        (["deep.pt2", "--rules", "bare"], 1, "this folder holds no .rules files"),
        (["questioned:Needs"], 1, "called without arguments, raises TypeError"),
        (["questioned:Shallow"], 1, "nothing says what questioned:Shallow is called with"),
        (["questioned:Shallow", "--input", "float32[2]"], 2, "did you mean `f32`?"),
        (["questioned:Shallow", "--input", "f32[a]"], 2, "'a' is no dim"),
        (["deep.pt2", "--input", "f32[2]"], 2, "an exported program knows its inputs"),
        (["compiled.pt2"], 1, "compiled.pt2 is a compiled model: give the program it was compiled from"),
        (["questioned.py"], 1, "is not an exported program"),
        (["deep.pt2", "--rules", "nowhere"], 2, "'nowhere' does not exist"),
        (["deep.pt2", "--diff", "nothing"], 2, "is neither a run, nor rules, nor a setting"),
        (["deep.pt2", "--diff", "min_blok_size=1"], 1, "min_block_size"),
    ],
)
def test_what_is_no_model_is_told_in_a_line(here, arguments, code, said):
    error = run("coverage", *arguments, code=code).stderr
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_program_is_told_without_the_traceback_of_pytorch(here, tmp_path, content):
    path = tmp_path / "other.pt2"
    path.write_bytes(content)
    done = subprocess.run([sys.executable, "-m", "engine", "why", path, "x"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{path} is not an exported program: ")
    assert done.stderr.count("\n") == 2


def test_a_rule_is_not_begun_where_it_cannot_be(here, tmp_path):
    nowhere = run("why", "deep.pt2", "swirl", "--new", tmp_path / "none" / "my.rules", code=2)
    assert f"there is no folder {tmp_path / 'none'}" in nowhere.stderr
    gone = run("why", "deep.pt2", "swirl", "--rules", "my.rules", "--new", tmp_path / "my.rules", code=1)
    assert "swirl was rewritten: ask about sin_default or mul_tensor, which are there instead" in gone.stderr
    assert not (tmp_path / "my.rules").exists()


def test_trace_of_a_node_that_is_not_there_offers_others(here):
    assert "did you mean swirl" in run("trace", "deep.pt2", "--node", "swirll", code=1).stderr
    assert "0 of 0 rewrites" in run("trace", "deep.pt2", "--node", "swirl").stdout


def test_the_environment_asks_for_the_time_of_each_rule(here, monkeypatch):
    monkeypatch.setenv("ENGINE_STATS", "1")
    lines = run("coverage", "deep.pt2", "--rules", "my.rules").stderr.splitlines()
    assert lines[1].split() == ["rule", "attempts", "matches", "used", "ms"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    assert rows["my.swirl"][:3] == ["1", "1", "1"]
    assert float(rows["my.swirl"][3]) > 0
    assert int(rows["activation.relu"][2]) == 2
    monkeypatch.setenv("ENGINE_STATS", "0")
    assert run("coverage", "deep.pt2").stderr == ""


def test_trace_prints_each_rewrite(here):
    said = run("trace", "deep.pt2", "--rules", "my.rules").stdout
    assert "lower my.swirl (my.rules:1)" in said
    assert "    swirl = engine_tests.swirl.default\n    -> " in said
    assert said.splitlines()[-1].endswith(" rewrites")
    assert "my.swirl" not in run("trace", "deep.pt2", "--rules", "my.rules", "--rule", "other.*").stdout
    assert "my.swirl" in run("trace", "deep.pt2", "--rules", "my.rules", "--node", "swirl").stdout
