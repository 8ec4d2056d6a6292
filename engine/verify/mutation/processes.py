"""Mutants judged in several processes: a mutant may end the process that runs it, and then it alone is noticed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

from engine.verify import workers
from engine.verify.branches import base
from engine.verify.mutation.judging import Judge, Judged
from engine.verify.mutation.mutants import Mutant, by_family, mutants

if TYPE_CHECKING:
    from engine.dsl.rule import Rule
    from engine.dsl.ruleset import RuleSet

# So few rules are not worth the start of a process.
_FEW = 8


def judge_rules(
    rules: RuleSet, chosen: Sequence[Rule], files: Sequence[str], *, examples: int, seed: int, jobs: int
) -> Iterator[list[Judged]]:
    """The mutants of rules judged, a list for each rule with all its members, in order.

    Args:
        chosen: rules of the set; all members of a family are tried, where one is among them.
        files: the files of users that ``rules`` was loaded from.
        examples: instances to draw for mutants that no line notices.

    Raises:
        EngineError: the rules changed since.
    """
    families = by_family(chosen, base)
    jobs = min(jobs, len(families))
    if jobs <= 1 and len(families) <= _FEW:
        for members in families:
            yield _judged(rules, members, examples, seed)
        return
    initial = workers.initial_arguments(rules, files)
    at = 0
    while at < len(families):
        with workers.processes(jobs, initial) as processes:
            futures = [
                processes.submit(_work, members[0].kind, base(members[0]), None, examples, seed)
                for members in families[at:]
            ]
            try:
                for future in futures:
                    found = future.result()
                    # None where the rule's op is of a package that only this process has imported.
                    yield _judged(rules, families[at], examples, seed) if found is None else found
                    at += 1
            except BrokenProcessPool:
                processes.shutdown(cancel_futures=True)
        if at < len(families):
            yield list(_one_by_one(rules, families[at], initial, examples, seed))
            at += 1


def _one_by_one(
    rules: RuleSet, members: Sequence[Rule], initial: Sequence[object], examples: int, seed: int
) -> Iterator[Judged]:
    """The mutants of a rule of which one ends the process: those that do are noticed."""
    every = list(mutants(members, rules.layers))
    number = 0
    while number < len(every):
        with workers.processes(1, initial) as process:
            try:
                while number < len(every):
                    future = process.submit(_work, members[0].kind, base(members[0]), number, examples, seed)
                    yield from future.result() or ()
                    number += 1
            except BrokenProcessPool:
                yield _ended(every[number], base(members[0]))
                number += 1


def _ended(mutant: Mutant, name: str) -> Judged:
    where = f"{mutant.span.file}:{mutant.span.line}"
    return Judged(name, where, mutant.what, "noticed", "it ends the process that runs it")


def _judged(rules: RuleSet, members: Sequence[Rule], examples: int, seed: int, only: int | None = None) -> list[Judged]:
    judge = Judge(rules, members, examples, seed)
    every = enumerate(mutants(members, rules.layers))
    return [judge.judge(mutant) for number, mutant in every if only in (None, number)]


def _work(kind: str, name: str, only: int | None, examples: int, seed: int) -> list[Judged] | None:
    rules = workers.loaded()
    members = [rule for rule in rules.rules if rule.kind == kind and base(rule) == name]
    return _judged(rules, members, examples, seed, only) if members else None


__all__ = ["judge_rules"]
