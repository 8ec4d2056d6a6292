"""Rules on their own test lines, with one operand constant, a parameter, expanded, or the same as another one.

Models have such operands wherever rules do not think of them: a learned query, a table of positions, ``x * x``. For
each line both sides of the rule are compared, and all rules that rewrite graphs are let loose on the instance:
whatever they make of it, none may raise or break its word.
"""

from __future__ import annotations

import functools
import logging
import random

from engine.dsl import tree
from engine.dsl.rule import Rule
from engine.dsl.ruleset import RuleSet
from engine.evaluator import Faults
from engine.lowering.subgraphs import Subgraphs
from engine.rewriter.rewriter import Rewriter
from engine.settings import CompilationSettings
from engine.verify.agreement import NotApplied, check
from engine.verify.instances import Inapplicable, instance
from engine.verify.line import written
from engine.verify.variations import operand_forms, reads_strides

NAME = "constant_operands"
CASES = 2000
FIXED = 60


@functools.cache
def _all() -> tuple[RuleSet, list[tuple[Rule, tree.Test]]]:
    """The built-in rules, and every case there is, in an order that mixes rules of all kinds."""
    rules = RuleSet.load()
    lines = [(rule, line) for rule in rules.rules for line in rule.tests if not line.rejects]
    cases = [(rule, form) for rule, line in lines for form in operand_forms(line, expanded=reads_strides(rule))]
    random.Random(0).shuffle(cases)
    return rules, cases


def _fault(rules: RuleSet, rule: Rule, line: tree.Test) -> str:
    """What is wrong with a rule on a line; empty where nothing is."""
    try:
        check(rule, line, rules, drawn=True)
    except (Inapplicable, NotApplied):
        pass
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    try:
        made = instance(rule, line, macros=rules.macros)
    except Inapplicable:
        return ""
    context = Subgraphs(rules, CompilationSettings(), faults=Faults(strict=True)).context(made.mirror)
    try:
        Rewriter(made.mirror, rules.phase("simplify", "lower"), context, check=True).run()
    except Exception as error:
        return f"all rules together: {type(error).__name__}: {error}"
    return ""


def run(count: int, seed: int) -> list[str]:
    """Try so many cases; one line for each rule that is wrong. Seeds count through all cases there are."""
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    rules, cases = _all()
    start = seed * 50
    chosen = [cases[(start + number) % len(cases)] for number in range(count)]
    faults = ((rule, line, _fault(rules, rule, line)) for rule, line in chosen)
    return [f"{rule.id}: {written(line)}: {said}" for rule, line, said in faults if said]
