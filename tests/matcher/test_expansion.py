"""Expansion of ``{}`` and ``?``."""

from __future__ import annotations

import pytest

from engine.dsl.expansion import expand
from engine.errors import RuleError
from engine.matcher.automaton import Automaton, automaton
from tests.matcher.patterns import near, op, rule

MUL, ADD, RELU = "aten.mul.Tensor", "aten.add.Tensor", "aten.relu.default"


def test_numbers_stay_in_their_slot() -> None:
    assert len(expand(rule("r", op(MUL, "x", 0.5, unordered=True)))) == 1
    (plain,) = expand(rule("r", op(MUL, 0.5, "x", unordered=True)))
    assert dict(plain.roots[0].arguments)[1].value == 0.5


def test_equal_operands_expand_once() -> None:
    assert len(expand(rule("r", op(MUL, "x", "x", unordered=True)))) == 1
    assert len(expand(rule("r", op(MUL, "x", "y", unordered=True)))) == 2


def test_written_out_gelu_is_within_the_limits() -> None:
    cube = op(MUL, op("aten.pow.Tensor_Scalar", "x", 3), near(0.044715), unordered=True)
    inner = op(MUL, op(ADD, "x", cube, unordered=True), near(0.7978845608), unordered=True)
    tanh = op(ADD, op("aten.tanh.default", inner), 1, unordered=True)
    gelu = rule("gelu", op(MUL, op(MUL, "x", 0.5, unordered=True), tanh, unordered=True))
    assert len(expand(gelu)) == 4


def test_optional_ops_expand_present_first() -> None:
    forms = expand(rule("r", op("aten.exp.default", op(RELU, "x", optional=True))))
    assert [len(list(dict(form.roots[0].arguments))) for form in forms] == [1, 1]
    assert dict(forms[0].roots[0].arguments)[0].op == RELU  # type: ignore[union-attr]
    assert dict(forms[1].roots[0].arguments)[0].name == "x"  # type: ignore[union-attr]


def test_too_many_unordered_ops_are_refused() -> None:
    pattern = op(MUL, "a", "b", unordered=True)
    for name in "cdef":
        pattern = op(MUL, pattern, name, unordered=True)
    with pytest.raises(RuleError, match="5 unordered ops, at most 4"):
        expand(rule("r", pattern))


def test_too_many_optional_ops_are_refused() -> None:
    pattern = op(RELU, "x", optional=True)
    for _ in range(4):
        pattern = op(RELU, pattern, optional=True)
    with pytest.raises(RuleError, match="32 patterns because of"):
        expand(rule("r", op("aten.exp.default", pattern)))


def test_equal_prefixes_are_shared() -> None:
    rules = [
        rule("a", op(MUL, op(RELU, "x"), 2)),
        rule("b", op(MUL, op(RELU, "y"), 3), rank=1),
        rule("c", op(MUL, op("aten.tanh.default", "y"), 3), rank=2),
    ]
    trie = Automaton(rules).trie(MUL)
    assert trie is not None
    (cases,) = trie.start.switches.values()
    assert set(cases) == {RELU, "aten.tanh.default"}
    ((_, after_relu),) = cases[RELU]
    assert len(after_relu.tests) == 2


def test_automata_are_kept_per_rule_set() -> None:
    rules = (rule("a", op(RELU, "x")),)
    assert automaton(rules) is automaton(list(rules))
    assert automaton((rule("a", op(RELU, "x")),)) is not automaton(rules)
