"""``engine rules mutate``: which small changes of a rule its lines notice, and a line to paste for those they miss."""

import importlib
import json

import pytest
from click.testing import CliRunner

from engine.commands.cli import cli
from engine.dsl.ruleset import RuleSet
from engine.verify.branches import base
from engine.verify.mutation.judging import Judge
from engine.verify.mutation.mutants import by_family, mutants
from engine.verify.mutation.processes import judge_rules
from tests.verify.test_verify import ENDING, found

WELL = """
lower powered
  match aten.pow.Tensor_Scalar(x: floating[.., N], 2.0)
  when  N >= 3
  emit  aten.mul.Tensor(x, x)
  test  x: f32[2, 3]
  reject x: f32[3, 2]
convert bent for (OP, T) in (aten.relu, RELU), (aten.tanh, TANH)
  match OP(x: f32[..])
  emit  trt.activation(x, type=T)
  test  x: f32[2, 3]
"""
BADLY = """
lower scaled
  match aten.sinc(x: floating[.., N])
  when  N % 2 == 0, rank(x) > 0
  emit  aten.mul.Scalar(aten.sinc(x), 1.0)
  decreases 0
  test  x: f32[2, 4]
lower clamped
  match aten.relu6(x: floating)
  emit  aten.clamp(x, 0.0, 6.0)
  test  x: f32[2]
lower first
  match aten.flipud(x: floating[N, ..])
  emit  aten.flip(x, [0]) if N > 1 else x
  test  x: f32[4, 3]
"""


@pytest.fixture(scope="module")
def badly():
    return judged(BADLY)


def judged(text):
    rules = RuleSet.from_text(text, name="mine", builtin=True)
    own = [rule for rule in rules.rules if rule.level > 0]
    return {
        (item.rule.partition(".")[2], item.what): item
        for members in by_family(own, base)
        for mutant in mutants(members, rules.layers)
        for item in [Judge(rules, members, 30).judge(mutant)]
    }


@pytest.mark.slow
def test_lines_that_miss_nothing():
    found = judged(WELL)
    assert {what for _, what in found} == {
        "`2.0` in the pattern becomes `2.5`",
        "the guard `N >= 3` is left out",
        "`>=` becomes `>`",
        "`3` becomes `4`",
        "`T` of mine.bent[0] becomes `SIGMOID` instead of `RELU`",
        "`T` of mine.bent[1] becomes `LEAKY_RELU` instead of `TANH`",
    }
    assert {item.outcome for item in found.values()} == {"noticed"}
    assert found["powered", "the guard `N >= 3` is left out"].reason == "`reject x: f32[3, 2]`: it fires"
    assert found["powered", "`>=` becomes `>`"].reason == "`test x: f32[2, 3]`: it does not apply"


@pytest.mark.slow
def test_what_is_missed_comes_with_a_line_that_does_not(badly):
    guard = "the guard `N % 2 == 0` is left out"
    item = badly["scaled", guard]
    assert (item.outcome, item.reason) == ("survived", "there is no `reject` line")
    assert item.where.endswith("mine.rules:4")
    assert item.line.startswith("reject x: f")
    pasted = BADLY.partition("lower clamped")[0].replace(
        "  test  x: f32[2, 4]\n", f"  test  x: f32[2, 4]\n  {item.line}\n"
    )
    assert judged(pasted)["scaled", guard].outcome == "noticed"


@pytest.mark.slow
def test_what_may_mean_the_same(badly):
    found = badly
    # A tensor of no dims has no last one, so that the pattern asks for this already.
    assert found["scaled", "the guard `rank(x) > 0` is left out"].outcome == "equivalent"
    assert "drawn instances" in found["scaled", "the guard `rank(x) > 0` is left out"].reason
    assert found["clamped", "`6.0` becomes `6.5`"].outcome != "noticed"  # no number of the line reaches 6


@pytest.mark.slow
def test_a_branch_that_no_line_takes(badly):
    found = badly
    assert found["first", "`1` becomes `2`"].outcome == "survived"
    assert found["first", "`1` becomes `2`"].reason == "no `test` line depends on it"
    assert found["first", "`1` becomes `2`"].line.startswith("test x: ")


def test_the_command(tmp_path):
    path, data = tmp_path / "mine.rules", tmp_path / "found.json"
    path.write_text(BADLY)
    arguments = ["rules", "mutate", str(path), "--rule", "mine.scaled", "--json", str(data)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert f"{path}:4: mine.scaled: the guard `N % 2 == 0` is left out: not noticed" in result.output
    assert "\n  reject x: f" in result.output
    kept = json.loads(data.read_text())
    noticed = sum(item["outcome"] == "noticed" for item in kept["mutants"])
    assert kept["noticed"] == noticed / (noticed + sum(item["outcome"] == "survived" for item in kept["mutants"]))
    assert f"{kept['noticed']:.1%} noticed" in result.output
    assert kept["complete"] is True
    assert CliRunner().invoke(cli, [*arguments, "--fail-under", "99"]).exit_code == 1
    nothing = CliRunner().invoke(cli, ["rules", "mutate", str(path), "--rule", "other."])
    assert "there is no such rule" in str(nothing.exception)


def test_what_was_kept_is_not_tried_again(tmp_path, monkeypatch):
    path, data = tmp_path / "mine.rules", tmp_path / "found.json"
    path.write_text(BADLY)
    tried = []
    judge = Judge.judge
    monkeypatch.setattr(Judge, "judge", lambda self, mutant: tried.append(mutant.what) or judge(self, mutant))
    command = ["rules", "mutate", str(path), "--rule", "mine.clamped", "--rule", "mine.first", "--json", str(data)]
    first = CliRunner().invoke(cli, command)
    count = len(tried)
    assert count > 2
    kept = json.loads(data.read_text())["mutants"]
    # A line above, and another rule's line: places move, and only that rule is tried again.
    path.write_text(
        "# a comment\n" + BADLY.replace("  test  x: f32[4, 3]\n", "  test  x: f32[4, 3]\n  test  x: f32[1, 3]\n")
    )
    again = CliRunner().invoke(cli, [*command, "--page", str(tmp_path / "page.md")])
    assert first.exit_code == again.exit_code == 0, again.output
    assert tried[count:] == [item["what"] for item in kept if item["rule"] == "mine.first"]
    places = {item["what"]: item["where"].rpartition(":")[2] for item in json.loads(data.read_text())["mutants"]}
    for item in kept:
        if item["rule"] == "mine.clamped":
            assert int(places[item["what"]]) == int(item["where"].rpartition(":")[2]) + 1
    assert "mine.first" in (tmp_path / "page.md").read_text()
    # A call for fewer rules leaves the others in the file.
    fewer = CliRunner().invoke(cli, [*command[:3], "--rule", "mine.first", "--json", str(data)])
    assert fewer.exit_code == 0, fewer.output
    assert {item["rule"] for item in json.loads(data.read_text())["mutants"]} == {"mine.first", "mine.clamped"}


def test_a_file_that_holds_something_else_is_left(tmp_path):
    path, data = tmp_path / "mine.rules", tmp_path / "found.json"
    path.write_text(BADLY)
    data.write_text('{"mine": 1}')
    result = CliRunner().invoke(cli, ["rules", "mutate", str(path), "--rule", "mine.first", "--json", str(data)])
    assert "holds no results of `engine rules mutate`" in str(result.exception)
    assert data.read_text() == '{"mine": 1}'


@pytest.mark.slow
def test_a_mutant_that_ends_the_process_is_noticed():
    importlib.import_module("tests.verify.wrong.ending")
    rules = RuleSet.load(ENDING)
    families = [[found(rules, name)] for name in ("ends_itself", "goes_on")]
    tried = judge_rules(rules, families, [str(ENDING)], examples=6, seed=0, jobs=2)
    itself, other = (items for _, items in sorted(tried, key=lambda one: families.index(one[0])))
    assert {item.outcome for item in itself} <= {"noticed"}
    assert [item.rule for item in other] == ["ending.goes_on"] * len(other)
