"""Test lines and the search say of operands that they are parameters, expanded, or the same as others."""

import pytest
import torch

from engine.dsl.ruleset import RuleSet
from engine.dsl.syntax.parser import parse
from engine.verify.agreement import check
from engine.verify.instances import instance
from engine.verify.line import written
from engine.verify.search import verify
from engine.verify.variations import operand_forms

RULE = """
lower difference
  match aten.sub.Tensor(x: tensor, y: tensor)
  emit  {}
  test  x: f32[2, 3], y: f32[2, 3]
"""
RIGHT = "aten.add.Tensor(x, aten.neg(y))"


def rule_with(emit):
    rules = RuleSet.from_text(RULE.format(emit))
    return rules, rules.rules[0]


def line(text):
    return parse(f"lower r match aten.relu(x) emit x\n{text}").rules[0].tests[0]


@pytest.mark.parametrize(
    "text",
    [
        "test x: parameter f32[2, 3], y: f32[2, 3]",
        "test x: expanded f32[2, 3], y: const expanded f32[2, 3]",
        "test x: parameter expanded f32[1, 3], y: f32[2, 3]",
        "test x: f32[N=2..4, 3], y = x",
    ],
)
def test_lines_say_what_operands_are(text):
    assert written(line(text)) == text
    rules, rule = rule_with(RIGHT)
    assert check(rule, line(text), rules).runs > 0


def test_an_instance_is_what_its_line_says():
    _, rule = rule_with(RIGHT)
    made = instance(rule, line("test x: parameter f32[2, 3], y: expanded f32[2, 3]"))
    (constant,) = made.mirror.constants.values()
    assert isinstance(constant, torch.nn.Parameter)
    (placeholder,) = made.mirror.placeholders
    assert tuple(placeholder.meta["val"].shape) == (1, 3)
    assert made.expanded([torch.ones(1, 3)])[0].stride() == (0, 1)
    made = instance(rule, line("test x: f32[2, 3], y = x"))
    assert made.roots[0].args[0] is made.roots[0].args[1]


def test_forms_are_those_that_a_line_leaves_out():
    forms = {written(form) for form in operand_forms(line("test x: f32[2, 3], y: const f32[2, 3], n = 2"))}
    assert "test x: parameter expanded f32[2, 3], y: const f32[2, 3], n = 2" in forms
    assert "test x: f32[2, 3], y = x, n = 2" in forms
    assert len(forms) == 5 + 5 + 1
    symbolic = operand_forms(line("test x: f32[N=2..3], y: f32[N]"))
    assert {written(form) for form in symbolic} == {"test x: f32[N=2..3], y = x"}


@pytest.mark.parametrize(
    ("emit", "found"),
    [
        (f"aten.neg(x) if is_const(y) else {RIGHT}", "const"),
        (f"aten.mul.Tensor(x, y) if x == y else {RIGHT}", "y = x"),
        (f"aten.neg(y) if x is aten.expand(..) else {RIGHT}", "expanded"),
    ],
)
def test_the_search_finds_what_is_wrong_of_such_operands_only(emit, found):
    rules, rule = rule_with(emit)
    (finding,) = verify(rules, [rule], examples=1)
    assert found in finding.wrong
