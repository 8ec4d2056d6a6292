"""`engine rules lint` on the built-in rules, and what it prints."""

import json

import pytest

from tests.commands.test_cli import run

WIDE = "lower a\n  match aten.gelu(x, ..)\n  let   k = 1\n  emit  aten.relu(x)\n  test  x: f32[2]\n"


@pytest.fixture
def path(tmp_path):
    (tmp_path / "my.rules").write_text(WIDE)
    return tmp_path / "my.rules"


@pytest.mark.slow  # `make check` runs it as well
def test_built_in_rules_have_nothing():
    assert run("rules", "lint", "--strict").stdout == "0 errors, 0 warnings\n"


def test_findings_and_exit_codes(path):
    said = run("rules", "lint", path).stdout
    assert f"{path}:2:9: warning[R106]: my.a: `..` takes any value of `approximate`" in said
    assert "0 errors, 2 warnings" in said
    run("rules", "lint", "--strict", path, code=1)
    path.write_text(WIDE.replace("match aten.gelu(x, ..)", "match aten.gelu(x: f32[_, _])\n  when rank(x) == 3"))
    assert "error[R004]" in run("rules", "lint", path, code=1).stderr


def test_machines(path):
    found = json.loads(run("rules", "lint", "--json", "--strict", path, code=1).stdout)
    assert [(one["code"], one["name"], one["line"], one["rule"]) for one in found["findings"]] == [
        ("R106", "over-wide", 2, "my.a"),
        ("R105", "unread", 3, "my.a"),
    ]
    sarif = json.loads(run("rules", "lint", "--sarif", path).stdout)
    run_ = sarif["runs"][0]
    for result in run_["results"]:
        assert run_["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    path.write_text("lower a match aten.gellu(x) emit x")
    assert json.loads(run("rules", "lint", "--json", path, code=1).stdout)["findings"][0]["code"] == "R001"


def test_a_folder_and_no_such_file(path, tmp_path):
    assert "2 warnings" in run("rules", "lint", tmp_path).stdout
    assert "does not exist" in run("rules", "lint", tmp_path / "none.rules", code=2).stderr
