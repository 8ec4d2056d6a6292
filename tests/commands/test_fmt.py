"""`engine rules fmt`: what it writes, what it only checks, and what it says to machines."""

import json
import stat

import pytest

from tests.commands.test_cli import run

ODD = "lower a match aten.gelu(x)\nemit aten.relu(x)\n test x: f32[2]"
FINE = "lower a\n  match aten.gelu(x)\n  emit  aten.relu(x)\n  test  x: f32[2]\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "odd.rules").write_text(ODD)
    (tmp_path / "fine.rules").write_text(FINE)
    (tmp_path / "other.txt").write_text(ODD)
    return tmp_path


def test_files_are_written_and_then_left_alone(folder):
    (folder / "odd.rules").chmod(0o640)
    before = (folder / "fine.rules").stat().st_mtime_ns
    assert "2 files, 1 formatted" in run("rules", "fmt", folder).stdout
    assert (folder / "odd.rules").read_text() == FINE
    assert stat.S_IMODE((folder / "odd.rules").stat().st_mode) == 0o640
    assert (folder / "fine.rules").stat().st_mtime_ns == before
    assert (folder / "other.txt").read_text() == ODD
    assert "0 formatted" in run("rules", "fmt", folder).stdout
    run("rules", "fmt", "--check", folder)


def test_checking_writes_nothing(folder):
    said = run("rules", "fmt", "--check", folder, code=1).stderr
    assert "odd.rules:1:1: error[R201]" in said
    assert "engine rules fmt" in said
    assert "fine.rules" not in said
    shown = run("rules", "fmt", "--diff", folder, code=1).stdout
    assert "-lower a match aten.gelu(x)\n" in shown
    assert "+  match aten.gelu(x)\n" in shown
    assert (folder / "odd.rules").read_text() == ODD


def test_json_and_sarif(folder):
    found = json.loads(run("rules", "fmt", "--check", "--json", folder, code=1).stdout)
    assert (found["schema"], found["errors"], found["warnings"]) == (1, 1, 0)
    assert (found["findings"][0]["code"], found["findings"][0]["line"]) == ("R201", 1)
    sarif = json.loads(run("rules", "fmt", "--check", "--sarif", folder, code=1).stdout)
    (result,) = sarif["runs"][0]["results"]
    assert result["ruleId"] == "R201"
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].endswith("odd.rules")
    assert json.loads(run("rules", "fmt", "--check", "--json", folder / "fine.rules").stdout)["findings"] == []


def test_line_ends_of_the_file_are_kept(folder):
    (folder / "odd.rules").write_bytes(ODD.replace("\n", "\r\n").encode())
    run("rules", "fmt", folder / "odd.rules")
    assert (folder / "odd.rules").read_bytes() == FINE.replace("\n", "\r\n").encode()
    run("rules", "fmt", "--check", folder / "odd.rules")


def test_a_file_with_mistakes_is_left_and_the_others_are_formatted(folder):
    (folder / "broken.rules").write_text("lower a match aten.gelu(x\n")
    said = run("rules", "fmt", folder, code=1)
    assert "broken.rules" in said.stderr
    assert (folder / "odd.rules").read_text() == FINE
    assert (folder / "broken.rules").read_text() == "lower a match aten.gelu(x\n"
    found = json.loads(run("rules", "fmt", "--check", "--json", folder, code=1).stdout)
    assert {one["code"] for one in found["findings"]} == {"R001"}


def test_codes_are_explained(folder):
    said = run("rules", "fmt", "--explain", "r201").stdout
    assert said.startswith("R201 unformatted")
    assert run("rules", "check", "--explain", "over-wide").stdout.startswith("R106 over-wide")
    assert "R001 invalid" in run("rules", "check", "--explain", "all").stdout
    assert "did you mean" in run("rules", "check", "--explain", "R1066", code=1).stderr


def test_check_speaks_to_machines_too(folder):
    (folder / "broken.rules").write_text("lower a\n  match aten.gellu(x)\n  emit  x\n")
    found = json.loads(run("rules", "check", "--json", folder / "broken.rules", code=1).stdout)
    assert [(one["code"], one["line"]) for one in found["findings"]] == [("R001", 2)]
    assert "gelu" in found["findings"][0]["hint"]
    (folder / "never.rules").write_text(
        "lower a\n  match aten.gelu(x: f32[_, _])\n  when  rank(x) == 3\n  let   k = 1\n  emit  aten.relu(x)\n"
    )
    found = json.loads(run("rules", "check", "--json", folder / "never.rules", code=1).stdout)
    assert {one["code"] for one in found["findings"]} == {"R004", "R104", "R105"}
    sarif = json.loads(run("rules", "check", "--sarif", folder / "never.rules", code=1).stdout)
    assert {one["level"] for one in sarif["runs"][0]["results"]} == {"error", "warning"}
    assert json.loads(run("rules", "check", "--json", folder / "fine.rules").stdout)["errors"] == 0
