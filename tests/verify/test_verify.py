"""``engine rules verify``: it finds what is wrong with wrong rules, and nothing wrong with right ones."""

import importlib
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from syrupy.assertion import SnapshotAssertion

from engine.commands.cli import cli
from engine.commands.tables import render_finding
from engine.dsl.rule import Rule
from engine.dsl.ruleset import RuleSet
from engine.dsl.syntax.parser import parse
from engine.evaluator.coverage import recording
from engine.testing import portable
from engine.verify.agreement import Disagreement, NotApplied, check
from engine.verify.findings import Finding, Summary
from engine.verify.line import written
from engine.verify.search import verify
from engine.verify.workers import verify_in_processes

WRONG = Path(__file__).parent / "wrong" / "wrong.rules"
CARELESS = WRONG.with_name("careless.rules")
ENDING = WRONG.with_name("ending.rules")
VALUES = WRONG.with_name("values.rules")
NAMES = ("sum_without_factor", "sum_of_four", "cube_of_absolute", "last_row")


@pytest.fixture(scope="module")
def wrong() -> RuleSet:
    return RuleSet.load(WRONG)


@pytest.fixture(scope="module")
def values() -> RuleSet:
    return RuleSet.load(VALUES)


def found(rules: RuleSet, name: str) -> Rule:
    return next(rule for rule in rules.rules if rule.level > 0 and rule.id.endswith(f".{name}"))


def tried(rules: RuleSet, name: str, examples: int = 20) -> Finding:
    (finding,) = verify(rules, [found(rules, name)], examples=examples)
    return finding


@pytest.mark.parametrize("name", NAMES)
def test_wrong_rules_agree_with_their_own_lines(name: str, wrong: RuleSet) -> None:
    rule = found(wrong, name)
    assert all(check(rule, test, wrong).runs for test in rule.tests)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_rules_are_found_with_a_line_to_paste(name: str, wrong: RuleSet, tmp_path: Path) -> None:
    finding = tried(wrong, name, examples=60)
    assert finding.wrong.startswith("test ")
    assert not finding.fine
    pasted = tmp_path / "wrong.rules"
    text = WRONG.read_text()
    head, own, rest = text.partition(f" {name} ")
    block, separator, more = rest.partition("\n\n")
    pasted.write_text(f"{head}{own}{block.rstrip()}\n  {finding.wrong}\n{separator}{more}")
    rules = RuleSet.load(pasted)
    rule = found(rules, name)
    with pytest.raises(Disagreement) as caught:
        check(rule, rule.tests[-1], rules)
    assert not isinstance(caught.value, NotApplied)


def test_the_same_search_finds_the_same(wrong: RuleSet) -> None:
    rule = found(wrong, "sum_of_four")
    first, second = (next(verify(wrong, [rule], examples=40)) for _ in range(2))
    assert (first.wrong, first.tried, first.agreed) == (second.wrong, second.tried, second.agreed)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing_times", "special values: the sides differ in what only `relax nan` allows"),
        ("plus_nothing", "special values: the sides differ in what only `relax signed_zero` allows"),
        ("sum_by_mean", "exact values: the sides differ in what only `relax reassociation` allows"),
        ("twice", "special values: Tensor-likes are not equal"),
        ("sum_of_numbers", "special values: the sides differ in what only `relax nan` allows"),
        ("place_of_greatest", "special values: Tensor-likes are not equal"),
    ],
)
def test_values_that_tell(name: str, said: str, values: RuleSet) -> None:
    finding = tried(values, name)
    assert said in finding.error
    word = said.partition("`relax ")[2].partition("`")[0]
    if word:
        text = _text_of(found(values, name), f"  relax {word}, signed_zero")
        forgiving = RuleSet.from_text(text, name="mine", builtin=True)
        assert tried(forgiving, name).wrong == ""


def _text_of(rule: Rule, clause: str) -> str:
    head, test, rest = rule.text.partition("\n  test")
    return f"{head}\n{clause}{test}{rest}\n"


def test_every_plain_form_of_a_pattern_is_tried(values: RuleSet) -> None:
    rule = found(values, "without_the_second")
    assert check(rule, rule.tests[0], values).expansion == 0
    with pytest.raises(Disagreement, match="Mismatched"):
        check(rule, rule.tests[0], values, form=1)
    assert "Mismatched" in tried(values, "without_the_second").error


def test_what_is_said_in_vain(values: RuleSet) -> None:
    findings = [tried(values, name) for name in ("minus", "one_line", "one_shape")]
    summary = Summary.of(values, findings)
    assert list(summary.unneeded.values()) == [["nan"]]
    assert [branch.what for branch in summary.unreached] == ["what stands behind `else` is never taken"]
    assert str(summary.unreached[0]).startswith(f"{VALUES}:")
    assert [finding.outcome for finding in findings] == ["fine", "fine", "hardly tested"]
    # The guard of `one_line` is false on its `reject` line; that of `one_shape` is false on no line.
    assert (summary.guards, len(summary.unrejected)) == (2, 1)
    assert not summary.fine


def test_recording_ends(values: RuleSet) -> None:
    rule = found(values, "one_line")
    check(rule, rule.tests[0], values)
    with recording({}) as visits:
        check(rule, rule.tests[0], values)
    before = {span: set(outcomes) for span, outcomes in visits.items()}
    assert rule.emit.span in before
    visits.clear()
    check(rule, rule.tests[0], values)
    assert visits == {}
    with recording({}) as again:
        check(rule, rule.tests[0], values)
    assert again == before


@pytest.mark.parametrize("start", ["arithmetic.add", "activation.relu", "shape.permute", "reduction.mean"])
def test_nothing_is_wrong_with_right_rules(start: str) -> None:
    rules = RuleSet.load()
    chosen = [rule for rule in rules.rules if rule.id.startswith(start)]
    assert chosen
    for finding in verify(rules, chosen, examples=6):
        assert finding.wrong == ""
        assert finding.agreed["known"] > 0


def test_a_line_is_written_as_it_is_read() -> None:
    for rule in RuleSet.load().rules:
        for test in rule.tests:
            line = written(test)
            text = f"lower r\n  match {rule.roots[0].op}(x)\n  emit x\n  {line}\n"
            (item,) = parse(text, "line.rules").rules
            (again,) = item.tests
            assert written(again) == line
            assert [binding.name for binding in again.bindings] == [binding.name for binding in test.bindings]


def test_processes_find_the_same_in_the_same_order(wrong: RuleSet) -> None:
    chosen = [found(wrong, name) for name in NAMES]
    alone = list(verify(wrong, chosen, examples=20))
    together = list(verify_in_processes(wrong, chosen, [str(WRONG)], examples=20, seed=0, jobs=2))
    for first, second in zip(alone, together, strict=True):
        assert {**first.as_dict(), "seconds": 0} == {**second.as_dict(), "seconds": 0}
        assert first.reached == second.reached


@pytest.mark.slow
def test_a_process_that_ends_takes_nothing_with_it() -> None:
    importlib.import_module("tests.verify.wrong.ending")
    rules = RuleSet.load(ENDING)
    chosen = [found(rules, name) for name in ("ends_elsewhere", "ends_itself", "goes_on")]
    elsewhere, itself, other = verify_in_processes(rules, chosen, [str(ENDING)], examples=8, seed=0, jobs=2)
    assert elsewhere.fine
    assert elsewhere.crashed
    assert all(line.startswith(("test x: f32[2", "test x: f32[4", "test x: f32[8")) for line in elsewhere.crashed)
    assert (itself.wrong, itself.error) == ("test x: f32[3]", "ends the process that runs it")
    assert itself.own_line.startswith(f"{ENDING}:")
    (alone,) = verify(rules, chosen[2:], examples=8)
    assert {**other.as_dict(), "seconds": 0} == {**alone.as_dict(), "seconds": 0}


def test_what_is_said_of_careless_rules(snapshot: SnapshotAssertion) -> None:
    rules = RuleSet.load(CARELESS)
    told = io.StringIO()
    for name in ("no_lines", "refused_line", "wrong_constant", "wrong_dtype", "wrong_guard"):
        render_finding(tried(rules, name, examples=1), told)
    assert portable(told.getvalue(), rule_lines=True) == snapshot


def test_a_built_in_file_is_no_file_of_a_user() -> None:
    rules = RuleSet.load()
    file = next(rule.span.file for rule in rules.rules if rule.id == "activation.relu")
    assert RuleSet.load(file) == rules


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    arguments = ["rules", "verify", str(WRONG), "--rule", "wrong.last_row", "--examples", "40", "--json", str(file)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert "wrong.last_row is wrong" in result.output
    assert "test x: f32[" in result.output
    assert "1 rules wrong" in result.output
    data = json.loads(file.read_text())
    assert data["counts"]["convert"] == {"fine": 0, "wrong": 1, "hardly tested": 0}
    assert data["rules"][0]["wrong"].startswith("test x: f32[")


def test_the_command_on_a_rule_that_is_fine(tmp_path: Path) -> None:
    arguments = ["rules", "verify", "--rule", "shape.permute_permute", "--examples", "5"]
    result = CliRunner().invoke(cli, arguments)
    assert (result.exit_code, result.output.count("is wrong")) == (0, 0), result.output
    assert "with sizes symbolic as drawn" in result.output
