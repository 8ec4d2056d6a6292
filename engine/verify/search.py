"""The search for an instance on which a rule is wrong: ``engine rules verify``.

Every rule is tried on variations of its test lines, in three stages of knowledge about sizes.  What is found is
shrunk by Hypothesis and printed as a test line.  Finding nothing proves nothing: it says on how many instances
both sides agreed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given

from engine.dsl import tree
from engine.dsl.rule import Rule
from engine.errors import BuildError, ConversionError, EngineError
from engine.verify.agreement import NotApplied, check
from engine.verify.instance import Inapplicable, instance
from engine.verify.line import written
from engine.verify.variations import STAGES, Stage, variations

if TYPE_CHECKING:
    from engine.dsl.ruleset import RuleSet

LEAST_ACCEPTED = 0.05
"""Share of draws that must be instances of a rule, or it counts as untestable."""


@dataclass(slots=True)
class Finding:
    """What trying one rule showed.

    Attributes:
        tried: instances drawn.
        agreed: per stage, instances on which both sides agreed.
        refused: of the instances drawn, those whose network TensorRT refused: they run in PyTorch.
        refusal: what TensorRT said first.
        wrong: an instance on which the rule is wrong, as a test line, shrunk; empty if none was found.
        error: what is wrong there.
    """

    rule: Rule
    tried: int = 0
    agreed: dict[Stage, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    refused: int = 0
    refusal: str = ""
    wrong: str = ""
    error: str = ""

    @property
    def accepted(self) -> float:
        """Share of the draws that were instances of the rule."""
        return (sum(self.agreed.values()) + self.refused) / self.tried if self.tried else 0.0

    @property
    def testable(self) -> bool:
        """Whether enough draws were instances to say anything."""
        return bool(self.wrong) or (sum(self.agreed.values()) > 0 and self.accepted >= LEAST_ACCEPTED)

    @property
    def fine(self) -> bool:
        """Whether the rule could be tried and no instance was found on which it is wrong."""
        return self.testable and not self.wrong


def verify(rules: RuleSet, chosen: Iterable[Rule], *, examples: int = 30, seed: int = 0) -> Iterator[Finding]:
    """Try rules one by one; the same arguments find the same things.

    Args:
        chosen: the rules of the set to try.
        examples: instances to try per rule and stage.
    """
    # PyTorch logs every call that a fake kernel refuses.
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    for rule in chosen:
        finding = Finding(rule)
        lines = [test for test in rule.tests if not test.rejects and _describes(rule, test, rules)]
        for stage in STAGES if lines else ():
            if not finding.wrong:
                _search(finding, lines, stage, rules, examples, seed)
        yield finding


def _describes(rule: Rule, test: tree.Test, rules: RuleSet) -> bool:
    """Whether a line describes an instance of this member of a family."""
    try:
        made = instance(rule, test, macros=rules.macros)
        for sizes in made.sizes():
            made.run(made.inputs(sizes, torch.Generator().manual_seed(0)))
    except Inapplicable:
        return False
    return True


def _search(
    finding: Finding, lines: Sequence[tree.Test], stage: Stage, rules: RuleSet, examples: int, seed: int
) -> None:
    failing: list[tuple[tree.Test, str]] = []
    outcomes: dict[str, str] = {}

    def outcome(test: tree.Test) -> str:
        """``agreed``, ``no instance``, ``refused``, or what is wrong; each line is run once."""
        text = written(test)
        if text not in outcomes:
            outcomes[text] = _outcome(finding, test, stage, rules, seed)
        return outcomes[text]

    def attempt(test: tree.Test) -> None:
        result = outcome(test)
        hypothesis.assume(result != "no instance")
        if result not in ("agreed", "refused"):
            failing.append((test, result))
            raise AssertionError(result)

    try:
        _settings(examples)(given(variations(lines, stage))(hypothesis.seed(seed)(attempt)))()
    except AssertionError:
        # The last failure that Hypothesis runs is the smallest that it found.
        smallest, finding.error = failing[-1]
        finding.wrong = written(smallest)
    except hypothesis.errors.Unsatisfiable:
        pass  # every draw was refused: `agreed` says so


def _settings(examples: int) -> Callable[[Callable[[], None]], Callable[[], None]]:
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


def _outcome(finding: Finding, test: tree.Test, stage: Stage, rules: RuleSet, seed: int) -> str:
    finding.tried += 1
    try:
        check(finding.rule, test, rules, seed=seed)
    except (Inapplicable, NotApplied):
        return "no instance"
    except (ConversionError, BuildError) as error:
        finding.refused += 1
        finding.refusal = finding.refusal or str(error).strip()
        return "refused"
    except EngineError as error:
        return str(error).strip()
    except Exception as error:  # PyTorch refuses what the right side does, or something of ours breaks
        return f"{type(error).__name__}: {error}".strip()
    finding.agreed[stage] += 1
    return "agreed"


__all__ = ["LEAST_ACCEPTED", "Finding", "verify"]
