"""The command line: what it prints, where it writes, and how it exits."""

import json
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import engine
from engine.commands.cli import cli, main
from engine.testing import portable
from tests.operators import swirl


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x):
        return self.linear(x).relu()


class Swirl(nn.Module):
    def forward(self, x):
        return swirl(x.exp()) + 1


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    batch = torch.export.Dim("batch", min=1, max=8)
    torch.export.save(
        torch.export.export(Model().eval(), (torch.randn(2, 8),), dynamic_shapes={"x": {0: batch}}),
        folder / "model.pt2",
    )
    torch.export.save(torch.export.export(Swirl(), (torch.randn(2, 3),)), folder / "swirl.pt2")
    (folder / "text.pt2").write_text("this is no program\n")
    (folder / "broken.rules").write_text("convert a\n  match aten.nope(x)\n  emit  trt.activation(x, type=RELUU)\n")
    (folder / "fine.rules").write_text(
        "convert a\n  match aten.relu(x: f32[_, 4])\n  emit  trt.activation(x, type=RELU)\n"
    )
    return folder


def run(*arguments, code=0):
    """The command in this process: exit code, stdout, stderr."""
    arguments = [str(argument) for argument in arguments]
    result = CliRunner().invoke(_Main(), arguments)
    assert result.exit_code == code, result.output + str(result.exception)
    return result


class _Main:
    """``main`` as click's test runner wants it."""

    name = "engine"

    def main(self, args, prog_name, **extra):
        before = sys.argv
        sys.argv = [prog_name, *args]
        try:
            main()
        finally:
            sys.argv = before


def test_compile(programs, tmp_path):
    out = tmp_path / "deep" / "out"
    result = run("compile", programs / "model.pt2", "-o", out)
    assert "coverage 100.0%" in result.stdout
    assert sorted(path.name for path in out.iterdir()) == ["engine_0.json", "engine_0.plan", "report.json"]
    assert (out / "engine_0.plan").stat().st_size > 1000
    sidecar = json.loads((out / "engine_0.json").read_text())
    assert sidecar["inputs"] == ["x"]
    assert json.loads((out / "report.json").read_text())["coverage"] == 1.0
    assert [path.name for path in out.parent.iterdir()] == ["out"]

    # A second run replaces the first.
    (out / "left over").write_text("")
    run("compile", programs / "model.pt2", "-o", out, "--min-block-size", 1, "--torch-executed-op", "aten.relu")
    assert "left over" not in os.listdir(out)
    assert json.loads((out / "report.json").read_text())["coverage"] == 0.5
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_the_output_appears_whole_or_not_at_all(programs, tmp_path):
    out = tmp_path / "out"
    run("compile", programs / "swirl.pt2", "-o", out, "--require-full-compilation", code=1)
    assert list(tmp_path.iterdir()) == []
    out.write_text("a file in the way")
    result = run("compile", programs / "model.pt2", "-o", out, code=1)
    assert str(out) in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert out.read_text() == "a file in the way"


def test_a_folder_of_someone_else_is_not_replaced(programs, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.txt").write_text("years of work")
    result = run("compile", programs / "model.pt2", "-o", out, code=1)
    assert "report.json" in result.stderr
    assert (out / "chapter.txt").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def test_compile_as_json(programs, tmp_path):
    result = run("compile", programs / "model.pt2", "-o", tmp_path / "out", "--json")
    data = json.loads(result.stdout)
    assert data["coverage"] == 1.0
    assert data["segments"][0]["engine_bytes"] > 0


def test_coverage(programs):
    result = run("coverage", programs / "swirl.pt2", "--min-block-size", 1)
    assert "engine_tests.swirl.default" in result.stdout
    assert "no rule converts" in result.stdout
    data = json.loads(run("coverage", programs / "swirl.pt2", "--json").stdout)
    assert data["fallbacks"][-1]["op"]
    assert 0 <= data["coverage"] < 1


def test_rules_of_the_user(programs):
    data = json.loads(run("coverage", programs / "model.pt2", "--rules", programs / "fine.rules", "--json").stdout)
    assert data["rules_used"]["fine.a"] == 1
    assert data["overridden"] == [["fine.a", "activation.relu"]]


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_rules_list(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    result = run("rules", "list", "--op", "aten.relu")
    assert "activation.relu" in result.stdout
    assert "convert" in result.stdout
    assert "aten.sigmoid" not in result.stdout
    assert "…" not in result.stdout


def test_rules_list_says_that_no_rule_has_an_op():
    assert run("rules", "list", "--op", "aten.nothing_like_it").stdout == (
        "no rule has aten.nothing_like_it as its root; rules of yours are listed where their files are given\n"
    )
    assert (
        "no simplify rule has aten.fft_fft" in run("rules", "list", "--op", "aten.fft_fft", "--kind", "simplify").stdout
    )


def test_rules_list_filters_and_counts(programs):
    everything = run("rules", "list").stdout
    lowering = run("rules", "list", "--kind", "lower").stdout
    assert 0 < lowering.count("\n") < everything.count("\n")
    assert "fine.a" in run("rules", "list", programs / "fine.rules", "--op", "aten.relu").stdout
    stats = run("rules", "list", "--stats").stdout
    assert "family" in stats
    assert any(line.startswith("all ") for line in stats.splitlines())
    assert "lines of Python a rule" in stats


def test_rules_check(programs):
    assert ": fine" in run("rules", "check").stdout
    assert ": fine" in run("rules", "check", programs / "fine.rules").stdout


HOST = """
from engine.rules import host

@host("halved_by_a_user")
def halved_by_a_user(n):
    return n // 2 if n % 2 == 0 else None
"""
HALVED = """
extern host.halved_by_a_user(n: int) -> int?

simplify twice_halved "x.repeat(n) in two steps."
  match aten.repeat(aten.repeat(x: f32[_], [2]), [n])
  let   k = host.halved_by_a_user(n)
  emit  aten.repeat(x, [4 * k])
  test  x: f32[3], n = 2
"""


def test_modules_of_the_user_are_imported_first(tmp_path):
    (tmp_path / "halving.py").write_text(HOST)
    (tmp_path / "halved.rules").write_text(HALVED)
    command = [sys.executable, "-m", "engine.commands.cli"]
    check = ["rules", "check", "halved.rules"]
    here = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
    without = subprocess.run([*command, *check], **here)
    assert without.returncode == 1
    assert "halved_by_a_user" in without.stderr
    done = subprocess.run([*command, "--import", "halving", *check], **here)
    assert done.returncode == 0, done.stderr
    verified = [*command, "--import", "halving", "rules", "verify", "halved.rules", "--examples", "3", "--jobs", "2"]
    done = subprocess.run(verified, **here)
    assert "0 rules wrong" in done.stdout, done.stdout + done.stderr
    missing = subprocess.run([*command, "--import", "no_such_module", *check], **here)
    assert missing.returncode == 2
    assert "Invalid value for --import: there is no module no_such_module" in missing.stderr
    (tmp_path / "ending.py").write_text("raise SystemExit(5)\n")
    (tmp_path / "unreadable.py").write_text("def f(:\n")
    for module, said in (("ending", "SystemExit: 5"), ("unreadable", "SyntaxError: invalid syntax")):
        done = subprocess.run([*command, "--import", module, *check], **here)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert f"{module} cannot be imported: {said}" in done.stderr


def test_rules_check_prints_every_mistake(programs, snapshot):
    result = run("rules", "check", programs / "broken.rules", code=1)
    assert result.stdout == ""
    assert portable(result.stderr, rule_lines=True).replace(str(programs), "") == snapshot


@pytest.mark.parametrize(
    "arguments",
    [
        ["compile"],
        ["compile", "model.pt2"],
        ["compile", "nowhere.pt2", "-o", "out"],
        ["coverage", "model.pt2", "--min-block-size", "0"],
        ["coverage", "model.pt2", "--no-such-option"],
        ["coverage", "model.pt2", "--rules", "nowhere.rules"],
        ["rules", "list", "--kind", "other"],
        ["rules", "check", "nowhere.rules"],
        ["no-such-command"],
    ],
)
def test_usage_errors_exit_with_2(programs, arguments, monkeypatch):
    monkeypatch.chdir(programs)
    result = run(*arguments, code=2)
    assert "Usage:" in result.stderr
    assert not (programs / "out").exists()


@pytest.mark.parametrize("name", ["text.pt2", "empty.pt2", "other.pt2"])
def test_a_file_that_is_no_program_exits_with_1(programs, name, tmp_path):
    (programs / "empty.pt2").write_bytes(b"")
    torch.save({"a": torch.ones(2)}, programs / "other.pt2")
    for command in (["coverage"], ["compile", "-o", tmp_path / "out"]):
        result = run(command[0], programs / name, *command[1:], code=1)
        assert f"{name} is not an exported program" in result.stderr
        assert "torch.export.save" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_installed_command():
    done = subprocess.run(
        [sys.executable, "-m", "engine.commands.cli", "--version"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert engine.__version__ in done.stdout
    assert done.stderr == ""


def test_help_names_every_command():
    text = run("--help").stdout
    assert all(name in text for name in ("compile", "coverage", "rules"))
    assert {"compile", "coverage", "rules"} <= set(cli.list_commands(None))
