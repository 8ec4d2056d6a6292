"""The search for an instance on which a rule is wrong: ``engine rules verify``.

Every rule is tried on its test lines and on variations of them, in three stages of knowledge about sizes.  What
is found is shrunk by Hypothesis and printed as a test line.  Finding nothing proves nothing: it says on how many
instances both sides agreed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given

from engine.conversion.scope import Mismatch
from engine.dsl import operators, tree
from engine.dsl.expansion import expand
from engine.dsl.rule import ArgumentPattern, Bind, OneOf, OpMatch, Rule
from engine.errors import BuildError, ConversionError, EngineError
from engine.evaluator.op_calls import resolve
from engine.verify.agreement import NotApplied, check, check_forms
from engine.verify.branches import reached
from engine.verify.findings import Finding
from engine.verify.forms import fitted, fitting
from engine.verify.instances import Inapplicable, instance
from engine.verify.line import written
from engine.verify.stages import STAGES, Stage
from engine.verify.variations import Variation, operand_forms, reads_strides, variations

if TYPE_CHECKING:
    from engine.dsl.ruleset import RuleSet


def verify(rules: RuleSet, chosen: Iterable[Rule], *, examples: int = 30, seed: int = 0) -> Iterator[Finding]:
    """Try rules one by one; the same arguments find the same things.

    Args:
        chosen: the rules of the set to try.
        examples: instances to try per rule and stage.
    """
    # PyTorch logs every call that a fake kernel refuses.
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    for rule in chosen:
        yield try_rule(rules, rule, examples, seed)


def try_rule(
    rules: RuleSet,
    rule: Rule,
    examples: int,
    seed: int,
    *,
    avoid: Collection[str] = (),
    told: Callable[[str], None] = lambda line: None,
) -> Finding:
    """Try one rule on its test lines and on ``examples`` variations of them per stage.

    Args:
        avoid: lines that are no instances, whatever they look like: they end the process.
        told: called with each line that is about to be run.
    """
    started = time.monotonic()
    finding = Finding(rule)
    unfit = [(test, _unfit(rule, test, rules, told)) for test in rule.tests if not test.rejects]
    lines = [test for test, reason in unfit if reason is None]
    if unfit and not lines:
        finding.unfit = str(unfit[0][1])
    _own_lines(finding, [*lines, *(test for test in rule.tests if test.rejects)], rules, told)
    _operands(finding, lines, rules, avoid, told)
    marked = any(isinstance(item, tree.Dim) and item.range for line in lines for item in tree.walk(line))
    for stage in STAGES if lines else ():
        if not finding.wrong and (marked or stage != "marked"):
            _Search(finding, stage, rules, seed, avoid, told).run(lines, examples)
    finding.reached = reached(rule, rules)
    finding.seconds = time.monotonic() - started
    return finding


def _unfit(rule: Rule, test: tree.Test, rules: RuleSet, told: Callable[[str], None]) -> str | None:
    """Why a line describes no instance of this member of a family, None if it does."""
    told(written(test))
    try:
        made = instance(rule, test, macros=rules.macros)
        for sizes in made.sizes():
            made.run(made.inputs(sizes, torch.Generator().manual_seed(0)))
    except Inapplicable as error:
        return str(error).strip()
    except Exception as error:  # what the line itself says, such as a size that is divided by zero
        return _told(error)
    return None


def _own_lines(finding: Finding, lines: Sequence[tree.Test], rules: RuleSet, told: Callable[[str], None]) -> None:
    """Run the lines as they are, in every plain form of the pattern."""
    for line in lines:
        told(written(line))
        try:
            finding.needed |= check_forms(finding.rule, line, rules)
        except Inapplicable:
            continue
        except Exception as error:  # of PyTorch, where it refuses what the right side does; or of ours
            finding.wrong, finding.error = written(line), _told(error)
            return


def _operands(
    finding: Finding,
    lines: Sequence[tree.Test],
    rules: RuleSet,
    avoid: Collection[str],
    told: Callable[[str], None],
) -> None:
    """Run the lines with each operand constant, a parameter, expanded, and the same as another one."""
    expanded = reads_strides(finding.rule)
    for form in (form for line in lines for form in operand_forms(line, expanded=expanded)):
        text = written(form)
        if finding.wrong or text in avoid:
            continue
        told(text)
        try:
            finding.needed |= check(finding.rule, form, rules, drawn=True).needed
        except (Inapplicable, NotApplied, BuildError):
            continue
        except ConversionError as error:
            if isinstance(error.__cause__, Mismatch):
                finding.wrong, finding.error = text, _told(error)
        except Exception as error:  # of PyTorch, where it refuses what the right side does; or of ours
            finding.wrong, finding.error = text, _told(error)


class _Search:
    """The search of one rule in one stage."""

    def __init__(
        self,
        finding: Finding,
        stage: Stage,
        rules: RuleSet,
        seed: int,
        avoid: Collection[str],
        told: Callable[[str], None],
    ) -> None:
        self.finding = finding
        self.stage = stage
        self.rules = rules
        self.seed = seed
        self.avoid = avoid
        self.told = told
        self.outcomes: dict[tuple[str, int], str] = {}
        self.failing: list[tuple[Variation, str]] = []

    def run(self, lines: Sequence[tree.Test], examples: int) -> None:
        """Try variations of lines, and note what was found."""
        rule = self.finding.rule
        optional = sorted(name for root in rule.roots for name in optional_names(root))
        drawn = variations(lines, self.stage, forms=len(expand(rule)), optional=optional)

        def attempt(variation: Variation) -> None:
            self._attempt(variation)

        try:
            search_settings(examples)(given(drawn)(hypothesis.seed(self.seed)(attempt)))()
        except AssertionError:
            # The last failure that Hypothesis runs is the smallest that it found.
            smallest, self.finding.error = self.failing[-1]
            self.finding.wrong = written(smallest.line)
        except hypothesis.errors.Unsatisfiable:
            pass  # every draw was refused: `agreed` says so

    def _attempt(self, variation: Variation) -> None:
        forms = fitting(self.finding.rule, variation.line)
        hypothesis.assume(bool(forms))
        form = forms[variation.form % len(forms)]
        variation = Variation(fitted(self.finding.rule, variation.line, form), form)
        key = written(variation.line), variation.form
        if key not in self.outcomes:
            self.outcomes[key] = self._outcome(variation)
        outcome = self.outcomes[key]
        hypothesis.assume(outcome != "no instance")
        if outcome not in ("agreed", "refused"):
            self.failing.append((variation, outcome))
            raise AssertionError(outcome)

    def _outcome(self, variation: Variation) -> str:
        """``agreed``, ``no instance``, ``refused``, or what is wrong."""
        finding = self.finding
        finding.tried[self.stage] += 1
        text = written(variation.line)
        if text in self.avoid:
            return "no instance"
        self.told(text)
        try:
            line, form = variation.line, variation.form
            verdict = check(finding.rule, line, self.rules, seed=self.seed, form=form, drawn=True)
        except (Inapplicable, NotApplied):
            return "no instance"
        except (ConversionError, BuildError) as error:
            if isinstance(error.__cause__, Mismatch):
                return _told(error)
            finding.refused[self.stage] += 1
            if not finding.refusal:
                finding.refusal, finding.refusal_line = str(error).strip(), text
            return "refused"
        except Exception as error:  # of PyTorch, where it refuses what the right side does; or of ours
            return _told(error)
        finding.needed |= verdict.needed
        finding.agreed[self.stage] += 1
        return "agreed"


def optional_names(pattern: ArgumentPattern) -> Iterator[str]:
    """Names that a pattern binds to arguments which the schema lets be none; ops that take graphs have no schema."""
    if isinstance(pattern, OpMatch) and not operators.is_higher_order(pattern.op):
        schema = resolve(pattern.op)[1]._schema.arguments
        for position, argument in pattern.arguments:
            if isinstance(argument, Bind) and str(schema[position].real_type).startswith("Optional"):
                yield argument.name
            elif isinstance(argument, OpMatch | OneOf):
                yield from optional_names(argument)
    elif isinstance(pattern, OneOf):
        for item in pattern.patterns:
            yield from optional_names(item)


def _told(error: Exception) -> str:
    return str(error).strip() if isinstance(error, EngineError) else f"{type(error).__name__}: {error}".strip()


def search_settings(examples: int) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """How Hypothesis draws: the same each time, without a limit of time, and without a database."""
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        verbosity=hypothesis.Verbosity.quiet,
        database=None,
        derandomize=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )


__all__ = ["optional_names", "search_settings", "try_rule", "verify"]
