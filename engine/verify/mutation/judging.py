"""Which mutants of a rule its test lines notice, and of the others what would.

A line notices a mutant where the mutant does not apply to it, fires though the line rejects, or computes something
else.  Most lines are settled by comparing what rule and mutant emit; only where that differs both sides are run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import hypothesis
import torch
from hypothesis import given

from engine.dsl import tree
from engine.dsl.expansion import expand
from engine.dsl.rule import Rule
from engine.evaluator import Context, Faults, apply
from engine.lowering.subgraphs import Subgraphs
from engine.matcher.match import Match
from engine.matcher.matcher import Matcher
from engine.settings import CompilationSettings
from engine.verify.agreement import check_forms
from engine.verify.forms import fitted, fitting
from engine.verify.instances import Inapplicable, instance
from engine.verify.line import written
from engine.verify.mutation.mutants import Mutant
from engine.verify.mutation.plan_text import plan_text
from engine.verify.search import optional_names, search_settings
from engine.verify.stages import STAGES
from engine.verify.variations import Variation, variations

if TYPE_CHECKING:
    from engine.dsl.ruleset import RuleSet

# Seconds of computing after which a mutant counts as noticed: a loop may have lost its end.
_LONGEST = 60.0

Outcome = Literal["noticed", "survived", "equivalent"]


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a mutant.

    Attributes:
        rule: id of the rule, without the number of a member.
        where: ``file:line`` of the change.
        outcome: ``equivalent`` of a mutant that no line notices, and that no drawn instance tells from the rule.
        reason: how it was noticed, or why not.
        line: a line that would notice it, if one was drawn.
        kind: of the rule.
    """

    rule: str
    where: str
    what: str
    outcome: Outcome
    reason: str
    line: str = ""
    kind: str = ""

    def as_dict(self) -> dict[str, str]:
        """The same as JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class _Case:
    """One line, or one that was drawn, in one plain form: the match of the rule, and what it emits."""

    line: tree.Test
    match: Match
    context: Context
    emitted: str | None
    run: Callable[[], None]

    def emits(self, rule: Rule) -> str | None:
        """What a rule with the same pattern emits; what raises does not apply."""
        return plan_text(apply(rule, self.match, self.context))


@dataclass(slots=True)
class Judge:
    """The lines of a rule and its members, ready to try mutants on.

    Args:
        examples: instances to draw for the mutants that no line notices.
    """

    rules: RuleSet
    members: Sequence[Rule]
    examples: int = 40
    seed: int = 0
    _lines: dict[str, list[_Case]] = field(default_factory=dict)
    _drawn: dict[str, list[_Case]] = field(default_factory=dict)

    def judge(self, mutant: Mutant) -> Judged:
        """Try a mutant."""
        where = f"{mutant.span.file}:{mutant.span.line}"
        name, kind = self.members[0].id.partition("[")[0], self.members[0].kind
        noticed = self._noticed(mutant)
        if noticed:
            return Judged(name, where, mutant.what, "noticed", noticed, kind=kind)
        line = self._telling(mutant)
        if line is None:
            drawn = sum(len(self._drawings(rule)) for rule, _ in mutant.rules)
            reason = f"it may mean the same: none of {drawn} drawn instances tells them apart"
            return Judged(name, where, mutant.what, "equivalent", reason, kind=kind)
        if mutant.guard and not any(test.rejects for test in self.members[0].tests):
            reason = "there is no `reject` line"
        elif line.startswith("reject"):
            reason = "no `reject` line is about it"
        else:
            reason = "no `test` line depends on it"
        return Judged(name, where, mutant.what, "survived", reason, line, kind)

    def _noticed(self, mutant: Mutant) -> str:
        """How a line notices a mutant; empty if none does."""
        for rule, changed in mutant.rules:
            if mutant.left:
                for test in rule.tests:
                    if (not test.rejects and self._fits(rule, test)) and (said := _wrong(changed, test, self.rules)):
                        return f"`{written(test)}`: {said}"
                continue
            differing: dict[int, tree.Test] = {}
            for case in self._cases(rule):
                emitted = case.emits(changed)
                if case.line.rejects:
                    if emitted is not None and case.emitted is None:
                        return f"`{written(case.line)}`: it fires"
                elif case.emitted is not None and emitted is None:
                    return f"`{written(case.line)}`: it does not apply"
                elif emitted != case.emitted:
                    differing[id(case.line)] = case.line
            for line in differing.values():
                if said := _wrong(changed, line, self.rules):
                    return f"`{written(line)}`: {said}"
        return ""

    def _telling(self, mutant: Mutant) -> str | None:
        """A drawn line on which rule and mutant differ; None if there is none."""
        if mutant.left:
            return ""  # the pattern is another one; nothing is drawn
        for rule, changed in mutant.rules:
            for case in self._drawings(rule):
                emitted = case.emits(changed)
                if emitted == case.emitted:
                    continue
                with contextlib.suppress(Exception):  # PyTorch rejects it
                    case.run()
                    if case.emitted is None:
                        return written(case.line).replace("test ", "reject ", 1)
                    if emitted is None or _wrong(changed, case.line, self.rules):
                        return written(case.line)
        return None

    def _fits(self, rule: Rule, test: tree.Test) -> bool:
        return any(case.line is test for case in self._cases(rule))

    def _cases(self, rule: Rule) -> list[_Case]:
        if rule.id not in self._lines:
            cases = (self._case(rule, test, form) for test in rule.tests for form in fitting(rule, test))
            self._lines[rule.id] = [case for case in cases if case is not None]
        return self._lines[rule.id]

    def _case(self, rule: Rule, test: tree.Test, form: int) -> _Case | None:
        try:
            made = instance(rule, test, macros=self.rules.macros, form=form)
        except Exception:  # no instance of this member
            return None
        context = Subgraphs(self.rules, CompilationSettings(), faults=Faults(strict=False)).context(made.mirror)
        match = next(iter(Matcher([rule], made.mirror).matches(made.roots[0])), None)
        if match is None:
            return None

        def run() -> None:
            for sizes in made.sizes():
                made.run(made.inputs(sizes, torch.Generator().manual_seed(0)))

        if not test.rejects:
            try:
                run()
            except Inapplicable:
                return None
        return _Case(test, match, context, plan_text(apply(rule, match, context)), run)

    def _drawings(self, rule: Rule) -> list[_Case]:
        """Instances like those of the rule's lines; made once, where a mutant needs them."""
        if rule.id not in self._drawn:
            found: dict[str, _Case] = {}
            # Variations of what a rule rejects are what it may take without one of its guards.
            lines = [dataclasses.replace(case.line, rejects=False) for case in self._cases(rule)]
            optional = sorted(name for root in rule.roots for name in optional_names(root))

            def attempt(variation: Variation) -> None:
                forms = fitting(rule, variation.line)
                hypothesis.assume(bool(forms))
                form = forms[variation.form % len(forms)]
                line = fitted(rule, variation.line, form)
                if written(line) not in found:
                    case = self._case(rule, line, form)
                    hypothesis.assume(case is not None)
                    assert case is not None
                    found[written(line)] = case

            for stage in STAGES if lines else ():
                drawn = variations(lines, stage, forms=len(expand(rule)), optional=optional)
                settings = search_settings(max(1, self.examples // len(STAGES)))
                with contextlib.suppress(hypothesis.errors.Unsatisfiable):
                    settings(given(drawn)(hypothesis.seed(self.seed)(attempt)))()
            self._drawn[rule.id] = list(found.values())
        return self._drawn[rule.id]


def _wrong(rule: Rule, line: tree.Test, rules: RuleSet) -> str:
    """What is wrong with a rule on a line, in a few words; empty if both sides agree."""
    try:
        with _limited():
            check_forms(rule, line, rules)
    except Exception as error:
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return ""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raise TimeoutError after a while, where the system can."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: Any) -> None:
        raise TimeoutError("it takes too long")

    # Time of this process and not of the day, so that it is the same on a machine that has much else to do.
    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, _LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


__all__ = ["Judge", "Judged", "Outcome"]
