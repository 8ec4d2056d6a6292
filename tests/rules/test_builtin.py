"""The test lines of built-in rules leave nothing out; `pytest rules` runs them (:mod:`engine.testing.plugin`).

A line that the ops of one member of a family refuse (a rank, an argument type) says nothing about that member, but each
member needs a line that fits it.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from engine.dsl import tree
from engine.dsl.rule import Rule
from engine.dsl.ruleset import RuleSet
from engine.verify.branches import Reached, base, callers, of_macro, reached, unreached
from engine.verify.forms import described
from engine.verify.instances import Inapplicable, Instance, instance
from engine.verify.line import written


@functools.cache
def rules() -> RuleSet:
    return RuleSet.load()


_reached: dict[int, Reached] = {}


def _reached_by(rule: Rule) -> Reached:
    """What the lines of a rule reach, found once: lines that reach a rule's branches reach those of macros too."""
    if id(rule) not in _reached:
        _reached[id(rule)] = reached(rule, rules(), _made)
        _instances.clear()
    return _reached[id(rule)]


# Those of the rule at hand: whether a line fits is asked of the instance whose branches are looked at next.
_instances: dict[tuple[int, int, int], Instance | Inapplicable] = {}


def _made(rule: Rule, test: tree.Test, form: int, loaded: RuleSet) -> Instance:
    key = id(rule), id(test), form
    if key not in _instances:
        try:
            _instances[key] = instance(rule, test, macros=loaded.macros, form=form)
        except Inapplicable as error:
            _instances[key] = error
    found = _instances[key]
    if isinstance(found, Inapplicable):
        raise found
    return found


@functools.cache
def calling() -> dict[str, list[Rule]]:
    return callers(rules())


FILES = sorted({rule.span.file for rule in rules().rules}, key=lambda file: Path(file).parts[-2:])


@pytest.mark.parametrize("file", FILES, ids=lambda file: "/".join(Path(file).parts[-2:]))
def test_lines_leave_nothing_out(file: str) -> None:
    """Every member has a line that fits, every line fits a member, and every branch is reached.

    Rules without lines say why (`# allow untested`), or `engine rules lint` finds them.
    """
    chosen = [rule for rule in rules().rules if rule.tests and rule.span.file == file]
    fits = {(base(rule), written(test)): False for rule in chosen for test in rule.tests}
    bare = []
    found = Reached()
    for rule in chosen:
        fitting = [test for test in rule.tests if _fits(rule, test)]
        fits.update({(base(rule), written(test)): True for test in fitting})
        if all(test.rejects for test in fitting):
            bare.append(rule.id)
        found.add(_reached_by(rule))
    assert bare == []
    assert [name for name, fit in fits.items() if not fit] == []
    assert [str(branch) for branch in unreached(chosen, found)] == []


def _fits(rule: Rule, test: tree.Test) -> bool:
    form = described(rule, test)
    if form is None:
        return False
    try:
        made = _made(rule, test, form, rules())
        for sizes in made.sizes():
            made.run(made.inputs(sizes, torch.Generator().manual_seed(0)))
    except Inapplicable:
        return False
    return True


MACROS = sorted({macro.span.file for macro in rules().macros.values()}, key=lambda file: Path(file).parts[-2:])


@pytest.mark.parametrize("file", MACROS, ids=lambda file: "/".join(Path(file).parts[-2:]))
def test_lines_reach_every_branch_of_macros(file: str) -> None:
    found = Reached()
    missing = []
    for name, rules_of_it in calling().items():
        macro = rules().macros[name]
        if macro.span.file != file:
            continue
        branches = of_macro(macro)
        # Those next to it are the likeliest to reach all of it.
        for rule in sorted(rules_of_it, key=lambda rule: rule.span.file != file):
            if all(map(found.reaches, branches)):
                break
            found.add(_reached_by(rule))
        missing += [str(b) for b in branches if not found.reaches(b)]
    assert missing == []
