"""What trying rules showed: a finding for each, and the sum of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.dsl.rule import Rule
from engine.dsl.vocabulary import PHASES
from engine.verify import branches
from engine.verify.branches import Branch, Reached, base
from engine.verify.line import written
from engine.verify.stages import STAGES, Stage
from engine.verify.values import unneeded

if TYPE_CHECKING:
    from engine.dsl.ruleset import RuleSet

LEAST_ACCEPTED = 0.05
"""Share of draws that must be instances of a rule, or it counts as hardly tested."""


@dataclass(slots=True)
class Finding:
    """What trying one rule, or one member of a family, showed.

    Attributes:
        tried: per stage, variations drawn.
        agreed: per stage, those that are instances and on which both sides agreed.
        refused: per stage, those whose network TensorRT rejected: they run in PyTorch.
        refusal: what TensorRT said first, and ``refusal_line`` the test line on which it did.
        wrong: an instance on which the rule is wrong, as a test line, shrunk; empty if none was found.
        error: what is wrong there.
        unfit: why the first of the rule's own lines describes no instance, if none of them does.
        crashed: lines on which PyTorch or TensorRT ended the process; they are taken for no instances.
        needed: words of ``relax`` without which some instance would be wrong.
        reached: what the rule's own lines reach.
        seconds: how long it took.
    """

    rule: Rule
    tried: dict[Stage, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    agreed: dict[Stage, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    refused: dict[Stage, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    refusal: str = ""
    refusal_line: str = ""
    wrong: str = ""
    error: str = ""
    unfit: str = ""
    crashed: tuple[str, ...] = ()
    needed: set[str] = field(default_factory=set)
    reached: Reached = field(default_factory=Reached)
    seconds: float = 0.0

    @property
    def accepted(self) -> float:
        """Share of the draws that were instances of the rule, in the best stage: some rules want sizes to be known."""
        return max((self.agreed[stage] + self.refused[stage]) / max(self.tried[stage], 1) for stage in STAGES)

    @property
    def own_line(self) -> str:
        """Where the rule itself has the line on which it is wrong; empty if the line was found by the search."""
        own = (test for test in self.rule.tests if written(test) == self.wrong)
        return next((f"{test.span.file}:{test.span.line}" for test in own), "")

    @property
    def testable(self) -> bool:
        """Whether enough draws were instances to say anything."""
        return bool(self.wrong) or (sum(self.agreed.values()) > 0 and self.accepted >= LEAST_ACCEPTED)

    @property
    def fine(self) -> bool:
        """Whether the rule could be tried and no instance was found on which it is wrong."""
        return self.testable and not self.wrong

    @property
    def outcome(self) -> str:
        """``fine``, ``wrong`` or ``hardly tested``."""
        return "wrong" if self.wrong else "fine" if self.testable else "hardly tested"

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON."""
        return {
            "rule": self.rule.id,
            "kind": self.rule.kind,
            "where": self.rule.where,
            "outcome": self.outcome,
            "tried": dict(self.tried),
            "agreed": dict(self.agreed),
            "refused": dict(self.refused),
            "refusal": self.refusal,
            "refusal_line": self.refusal_line,
            "wrong": self.wrong,
            "error": self.error,
            "unfit": self.unfit,
            "crashed": list(self.crashed),
            "relaxed": sorted(self.needed),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """The sum of findings.

    Attributes:
        unneeded: rules, without the number of a member, with the words of ``relax`` that nothing needed.
        branches: how many branches the rules have; ``unreached`` are those that no test line reaches.
        guards: how many guards the rules have; ``unrejected`` are those that no line makes false.
    """

    findings: tuple[Finding, ...]
    unneeded: dict[str, list[str]]
    branches: int
    unreached: tuple[Branch, ...]
    guards: int
    unrejected: tuple[Branch, ...]

    @classmethod
    def of(cls, rules: RuleSet, findings: Sequence[Finding]) -> Summary:
        """Sum up; macros are looked at where all rules of the set were tried."""
        chosen = [finding.rule for finding in findings]
        found, needed = Reached(), dict[tuple[str, str], set[str]]()
        for finding in findings:
            found.add(finding.reached)
            needed.setdefault((finding.rule.kind, base(finding.rule)), set()).update(finding.needed)
        once = {(rule.kind, base(rule)): rule for rule in chosen}
        superfluous = {
            f"{rule.where}: {name}": words
            for (kind, name), rule in once.items()
            if (words := unneeded(rule.relax, kind, needed[kind, name]))
        }
        every = {branch for rule in once.values() for branch in branches.of_rule(rule)}
        missing = branches.unreached(chosen, found)
        if len(chosen) == len(rules.rules):
            every |= {branch for macro in rules.macros.values() for branch in branches.of_macro(macro)}
            missing += branches.unreached_in_macros(rules, found)
        guards = dict.fromkeys(guard for rule in once.values() for guard in branches.guards(rule))
        unrejected = tuple(guard for guard in guards if not found.reaches(guard))
        return cls(tuple(findings), superfluous, len(every), tuple(missing), len(guards), unrejected)

    @property
    def fine(self) -> bool:
        """Whether every rule is, and no ``relax`` is unneeded."""
        return all(finding.fine for finding in self.findings) and not self.unneeded

    def count(self, outcome: str, kind: str | None = None) -> int:
        """Rules with an outcome, of one kind or all."""
        return sum(f.outcome == outcome for f in self.findings if kind in (None, f.rule.kind))

    def as_dict(self) -> dict[str, Any]:
        """The summary with all findings, as JSON."""
        return {
            "fine": self.fine,
            "counts": {
                kind: {outcome: self.count(outcome, kind) for outcome in ("fine", "wrong", "hardly tested")}
                for kind in PHASES
            },
            "agreed": {stage: sum(finding.agreed[stage] for finding in self.findings) for stage in STAGES},
            "refused": {stage: sum(finding.refused[stage] for finding in self.findings) for stage in STAGES},
            "unneeded_relax": self.unneeded,
            "branches": self.branches,
            "unreached": [str(branch) for branch in self.unreached],
            "guards": self.guards,
            "guards_never_false": [str(guard) for guard in self.unrejected],
            "rules": [finding.as_dict() for finding in self.findings],
        }


__all__ = ["LEAST_ACCEPTED", "Finding", "Summary"]
