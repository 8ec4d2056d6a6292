"""``engine rules verify``: it finds what is wrong with wrong rules, and nothing wrong with right ones."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli import cli
from engine.dsl.parser import parse
from engine.dsl.rule import Rule
from engine.dsl.ruleset import RuleSet
from engine.verify.agreement import Disagreement, NotApplied, check
from engine.verify.line import written
from engine.verify.search import verify

WRONG = Path(__file__).parent / "wrong" / "wrong.rules"
NAMES = ("sum_without_factor", "sum_of_four", "cube_of_absolute", "last_row")


@pytest.fixture(scope="module")
def wrong() -> RuleSet:
    return RuleSet.load(WRONG)


def found(rules: RuleSet, name: str) -> Rule:
    return next(rule for rule in rules.rules if rule.id == f"wrong.{name}")


@pytest.mark.parametrize("name", NAMES)
def test_wrong_rules_agree_with_their_own_lines(name: str, wrong: RuleSet) -> None:
    rule = found(wrong, name)
    assert all(check(rule, test, wrong).runs for test in rule.tests)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_rules_are_found_with_a_line_to_paste(name: str, wrong: RuleSet, tmp_path: Path) -> None:
    (finding,) = verify(wrong, [found(wrong, name)], examples=60)
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


@pytest.mark.parametrize("start", ["arithmetic.add", "activation.relu", "shape.permute", "reduction.mean"])
def test_nothing_is_wrong_with_right_rules(start: str, wrong: RuleSet) -> None:
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


def test_the_command() -> None:
    result = CliRunner().invoke(cli, ["rules", "verify", str(WRONG), "--rule", "wrong.last_row", "--examples", "40"])
    assert result.exit_code == 1
    assert "wrong.last_row is wrong" in result.output
    assert "test x: f32[" in result.output
    assert "1 rules wrong" in result.output
