"""Every built-in rule does on each of its test lines what its pattern means.

One test per rule and test line; a line that the ops of one member of a family refuse (a rank, an argument
type) says nothing about that member and is skipped there, but each member needs a line that fits it.
"""

from __future__ import annotations

import functools

import pytest
import torch

from engine.dsl.rule import Rule
from engine.dsl.ruleset import RuleSet
from engine.verify.agreement import check
from engine.verify.instance import Inapplicable, instance


@functools.cache
def rules() -> RuleSet:
    return RuleSet.load()


def _lines() -> list[object]:
    return [
        pytest.param(rule, number, id=f"{rule.id}-{number}")
        for rule in sorted(rules().rules, key=lambda rule: rule.id)
        for number in range(len(rule.tests))
    ]


@pytest.mark.parametrize(("rule", "number"), _lines())
def test_rule_agrees_with_its_pattern(rule: Rule, number: int) -> None:
    try:
        check(rule, rule.tests[number], rules())
    except Inapplicable as reason:
        pytest.skip(str(reason).splitlines()[0])


@pytest.mark.parametrize("family", sorted({rule.id.partition(".")[0] for rule in rules().rules}))
def test_every_member_has_a_line_that_fits(family: str) -> None:
    def fits(rule: Rule) -> bool:
        for test in rule.tests:
            try:
                made = instance(rule, test, macros=rules().macros)
                for sizes in made.sizes():
                    made.run(made.inputs(sizes, torch.Generator().manual_seed(0)))
                if not test.rejects:
                    return True
            except Inapplicable:
                continue
        return False

    untested = [rule.id for rule in rules().rules if rule.id.partition(".")[0] == family and not fits(rule)]
    assert untested == []
