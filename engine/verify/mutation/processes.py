"""Mutants judged in several processes: a mutant may end the process that runs it, and then it alone is noticed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, TypeAlias

from engine.verify import workers
from engine.verify.branches import base
from engine.verify.mutation.judging import Judge, Judged
from engine.verify.mutation.mutants import Mutant, mutants

if TYPE_CHECKING:
    from engine.dsl.rule import Rule
    from engine.dsl.ruleset import RuleSet

# So few rules are not worth the start of a process.
_FEW = 8

_Tried: TypeAlias = "tuple[Sequence[Rule], list[Judged]]"


def judge_rules(
    rules: RuleSet,
    families: Sequence[Sequence[Rule]],
    files: Sequence[str],
    *,
    examples: int,
    seed: int,
    jobs: int,
) -> Iterator[_Tried]:
    """The mutants of rules judged: each rule with what became of its mutants, as soon as that is known.

    Args:
        families: rules of the set, all members of a family together.
        files: the files of users that ``rules`` was loaded from.
        examples: instances to draw for mutants that no line notices.

    Raises:
        EngineError: the rules changed since.
    """
    jobs = min(jobs, len(families))
    if jobs <= 1 and len(families) <= _FEW:
        for members in families:
            yield members, _judged(rules, members, examples, seed)
        return
    initial = workers.initial_arguments(rules, files)
    left = list(families)
    suspects: list[Sequence[Rule]] = []
    while left:
        yield from _together(rules, left, initial, examples, seed, jobs)
        # One of the rules at work ended its process, and with it the others: those come last, each alone.
        suspects += left[:jobs]
        del left[:jobs]
    stop = threading.Event()
    with ThreadPoolExecutor(jobs) as threads:
        alone = {
            threads.submit(_one_by_one, rules, members, initial, examples, seed, stop): members for members in suspects
        }
        try:
            for future in as_completed(alone):
                yield alone[future], future.result()
        finally:
            stop.set()
            threads.shutdown(wait=False, cancel_futures=True)


def _together(
    rules: RuleSet, left: list[Sequence[Rule]], initial: Sequence[object], examples: int, seed: int, jobs: int
) -> Iterator[_Tried]:
    """Judge rules until all are done or a process ends; ``left`` loses those that are done."""
    processes = workers.processes(jobs, initial)
    try:
        futures = {
            processes.submit(_work, members[0].kind, base(members[0]), None, examples, seed): members
            for members in left
        }
        for future in as_completed(futures):
            members = futures[future]
            found = _result(future)
            if found is _BROKEN:
                continue
            assert not isinstance(found, str)
            left.remove(members)
            # None where the rule's op is of a package that only this process has imported.
            yield members, _judged(rules, members, examples, seed) if found is None else found
    finally:
        _stop(processes)


_BROKEN = "broken"


def _result(future: Future[list[Judged] | None]) -> list[Judged] | str | None:
    try:
        return future.result()
    except BrokenProcessPool:
        return _BROKEN


def _stop(processes: ProcessPoolExecutor) -> None:
    """End processes, whatever they are at: where all is done they have nothing left to do."""
    running = list((processes._processes or {}).values())
    processes.shutdown(wait=False, cancel_futures=True)
    for process in running:
        process.terminate()
    for process in running:
        process.join()


def _one_by_one(
    rules: RuleSet,
    members: Sequence[Rule],
    initial: Sequence[object],
    examples: int,
    seed: int,
    stop: threading.Event,
) -> list[Judged]:
    """The mutants of a rule of which one may end the process: those that do are noticed.

    Raises:
        CancelledError: nobody waits for them any more.
    """
    every = list(mutants(members, rules.layers))
    found: list[Judged] = []
    while len(found) < len(every):
        with workers.processes(1, initial) as process:
            try:
                while len(found) < len(every):
                    if stop.is_set():
                        raise CancelledError
                    future = process.submit(_work, members[0].kind, base(members[0]), len(found), examples, seed)
                    answer = future.result()
                    found += _judged(rules, members, examples, seed, len(found)) if answer is None else answer
            except BrokenProcessPool:
                found.append(_ended(every[len(found)], members[0]))
    return found


def _ended(mutant: Mutant, rule: Rule) -> Judged:
    where = f"{mutant.span.file}:{mutant.span.line}"
    return Judged(base(rule), where, mutant.what, "noticed", "it ends the process that runs it", kind=rule.kind)


def _judged(rules: RuleSet, members: Sequence[Rule], examples: int, seed: int, only: int | None = None) -> list[Judged]:
    judge = Judge(rules, members, examples, seed)
    every = enumerate(mutants(members, rules.layers))
    return [judge.judge(mutant) for number, mutant in every if only in (None, number)]


def _work(kind: str, name: str, only: int | None, examples: int, seed: int) -> list[Judged] | None:
    rules = workers.loaded()
    members = [rule for rule in rules.rules if rule.kind == kind and base(rule) == name]
    if not members or only is None:
        return _judged(rules, members, examples, seed) if members else None
    # Mutants that come one by one share what was made for the one before.
    judge = _judges.setdefault((kind, name, examples, seed), Judge(rules, members, examples, seed))
    return [judge.judge(list(mutants(members, rules.layers))[only])]


_judges: dict[tuple[str, str, int, int], Judge] = {}


__all__ = ["judge_rules"]
