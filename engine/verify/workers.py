"""The search in several processes: each has the rules once, and takes one rule after the other."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError
from engine.verify.findings import Finding
from engine.verify.search import try_rule, verify

if TYPE_CHECKING:
    from engine.dsl.rule import Rule
    from engine.dsl.ruleset import RuleSet

# Of the process that it is in: the rules, by kind and id.
_rules: RuleSet | None = None
_by_name: dict[tuple[str, str], Rule] = {}


def verify_in_processes(
    rules: RuleSet, chosen: Sequence[Rule], files: Sequence[str], *, examples: int, seed: int, jobs: int
) -> Iterator[Finding]:
    """Try rules in ``jobs`` processes; the findings are those of :func:`verify`, in the same order.

    Args:
        files: the files of users that ``rules`` was loaded from.

    Raises:
        EngineError: the rules changed since.
    """
    jobs = min(jobs, len(chosen))
    if jobs <= 1:
        yield from verify(rules, chosen, examples=examples, seed=seed)
        return
    waiting = list(chosen)
    while waiting:
        with _pool(jobs, files, rules.hash) as pool:
            futures = [pool.submit(_try, rule.kind, rule.id, examples, seed) for rule in waiting]
            try:
                for future in futures:
                    found = future.result()
                    yield Finding(waiting.pop(0), **found)
            except BrokenProcessPool:
                pool.shutdown(cancel_futures=True)
        if waiting:
            # One of the rules at work ended its process, perhaps the first that has no result: it goes alone.
            yield _alone(waiting.pop(0), files, rules.hash, examples, seed)


def _pool(jobs: int, files: Sequence[str], digest: str) -> ProcessPoolExecutor:
    # A fork would copy the threads' locks of PyTorch and TensorRT, but not the threads.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(tuple(files), digest))


def _alone(rule: Rule, files: Sequence[str], digest: str, examples: int, seed: int) -> Finding:
    with _pool(1, files, digest) as pool:
        try:
            return Finding(rule, **pool.submit(_try, rule.kind, rule.id, examples, seed).result())
        except BrokenProcessPool:
            return Finding(rule, wrong="any line", error="the process that tried this rule ended without a word")


def _start(files: Sequence[str], digest: str) -> None:
    import torch

    from engine.dsl.ruleset import RuleSet

    global _rules
    torch.set_num_threads(1)
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    _rules = RuleSet.load(*files)
    if _rules.hash != digest:
        raise EngineError("the rules changed while they were verified; start again")
    _by_name.update({(rule.kind, rule.id): rule for rule in _rules.rules})


def _try(kind: str, name: str, examples: int, seed: int) -> dict[str, Any]:
    assert _rules is not None
    found = try_rule(_rules, _by_name[kind, name], examples, seed)
    # The rule itself stays: the other process has it, and its text is decoded where it is needed.
    return {field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.name != "rule"}


__all__ = ["verify_in_processes"]
