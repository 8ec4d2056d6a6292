"""Alternatives in patterns: which one matches, what its names are, and how rules with them are ordered."""

import pytest
import torch

import engine
from engine.dsl.expansion import expand
from engine.dsl.forms import names_in_some
from engine.dsl.ruleset import RuleSet
from engine.errors import RuleError
from engine.verify.agreement import Disagreement, check
from engine.verify.forms import described, fitted, fitting
from engine.verify.line import written

TEXT = """
simplify scaled
  match aten.relu((aten.mul.Tensor(y, s: float) | aten.div.Tensor(y, s: float) as divided | aten.neg(y) as turned))
  when  s is none or s > 0.0
  emit  aten.relu(y) if not turned and s == 3.0 else aten.abs(y) if divided else aten.sin(y)
"""


def ruled(text: str, name: str = "my.scaled"):
    return next(rule for rule in RuleSet.from_text(text).rules if rule.id == name)


@pytest.mark.parametrize(
    ("model", "becomes"),
    [
        (lambda x: (x * 3.0).relu(), ["relu"]),
        (lambda x: (x / 2.0).relu(), ["abs"]),
        (lambda x: (x * 2.0).relu(), ["sin"]),
        (lambda x: x.neg().relu(), ["sin"]),
        (lambda x: (x * -2.0).relu(), ["mul", "relu"]),
        (lambda x: x.exp().relu(), ["exp", "relu"]),
    ],
    ids=["three", "divided", "multiplied", "turned", "guarded", "none"],
)
def test_the_alternative_that_fits_says_what_the_names_are(model, becomes, tmp_path) -> None:
    class Model(torch.nn.Module):
        def forward(self, x):
            return model(x)

    path = tmp_path / "my.rules"
    path.write_text(TEXT)
    found = engine.coverage(Model(), (torch.randn(2, 3),), rules=[path]).rules_used
    assert found.get("my.scaled", 0) == (len(becomes) == 1)
    assert any(name.endswith(becomes[-1]) or name.startswith(("elementary.", "activation.")) for name in found)


def test_alternatives_multiply_and_are_tried_as_written() -> None:
    rule = ruled("""
simplify scaled
  match aten.add.Tensor{(aten.exp(x) | aten.sin(x) as wave), aten.relu?((aten.cos(y) as wave | 2.0))}
  emit  x if wave else aten.neg(x) if y is none else y
""")
    forms = expand(rule)
    assert [sorted(form.chosen) for form in forms[:3]] == [["wave"], [], ["wave"]]
    # relu of a number is written, though no graph has it: the pattern says so.
    assert len(forms) == 2 * 2 * 3 + 2 or len(forms) == len({form.roots for form in forms})


def test_a_name_that_every_alternative_binds_is_always_there() -> None:
    (root,) = ruled(TEXT).roots
    assert set(names_in_some(root)) == {"s"}


def test_more_specific_alternatives_come_first() -> None:
    text = (
        TEXT
        + """
simplify plain
  match aten.relu(y)
  emit  aten.exp(y)
"""
    )
    assert [rule.id for rule in RuleSet.from_text(text).rules] == ["my.scaled", "my.plain"]


def test_an_alternative_that_another_rule_has_too_is_ambiguous() -> None:
    text = (
        TEXT
        + """
simplify shrunk
  match aten.relu(aten.div.Tensor(y, s))
  when  y is not aten.exp(..)
  emit  y
"""
    )
    with pytest.raises(RuleError, match="can match the same node and neither is more specific"):
        RuleSet.from_text(text)
    assert RuleSet.from_text(text + "  over  scaled\n").rules[0].id == "my.shrunk"


LINES = """
simplify scaled
  match aten.add.Tensor(
    (aten.mul.Tensor(y, s: float) | aten.div.Tensor(y, s: float) as over | aten.abs(y) as size | aten.alias(y)), z)
  when  not size
  emit  aten.add.Tensor(z, y, alpha=1.0 if s is none else 1.0 / s if over else s)
  relax reassociation
  test  y: f32[2, 3], z: f32[3], s = 0.5
  test  y: f32[2, 3], z: f32[3], s = 0.5, over = true
  test  y: f32[2, 3], z: f32[3]
  test  y: f32[2, 3], z: f32[3], s = 3.0, over = false
  reject y: f32[2, 3], z: f32[3], size = true
"""


def test_a_line_describes_the_alternative_that_it_gives_values_for() -> None:
    rule = ruled(LINES)
    assert len(expand(rule)) == 4
    # Without a word the first that binds just y and z is the absolute value.
    assert [described(rule, test) for test in rule.tests] == [0, 1, 2, 0, 2]
    assert [fitting(rule, test) for test in rule.tests] == [[0, 1], [0, 1], [2, 3], [0, 1], [2, 3]]


def test_a_line_is_fitted_so_that_it_can_be_pasted() -> None:
    rule = ruled(LINES)
    lines = {written(fitted(rule, rule.tests[0], form)) for form in (0, 1)}
    assert lines == {
        "test y: f32[2, 3], z: f32[3], s = 0.5",
        "test y: f32[2, 3], z: f32[3], s = 0.5, over = true",
    }
    plain = fitted(rule, rule.tests[2], 3)
    assert written(plain) == "test y: f32[2, 3], z: f32[3], over = false, size = false"
    assert described(rule, plain) == 3


def test_each_alternative_is_compared_with_pytorch() -> None:
    rules = RuleSet.from_text(LINES)
    (rule,) = rules.rules
    for number in (0, 1, 3, 4):
        check(rule, rule.tests[number], rules)
    check(rule, rule.tests[2], rules, form=3)
    wrong = LINES.replace("1.0 / s if over else s", "s")
    rules = RuleSet.from_text(wrong)
    with pytest.raises(Disagreement, match="Mismatched"):
        check(rules.rules[0], rules.rules[0].tests[1], rules)
    check(rules.rules[0], rules.rules[0].tests[0], rules)
