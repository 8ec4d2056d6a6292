"""The search in several processes: each has the rules once, and takes one rule after the other."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.errors import EngineError
from engine.verify.findings import Finding
from engine.verify.line import written
from engine.verify.search import try_rule, verify

if TYPE_CHECKING:
    from engine.dsl.rule import Rule
    from engine.dsl.ruleset import RuleSet

# A fork would copy the threads' locks of PyTorch and TensorRT, but not the threads.
_START = "spawn"
_LONGEST_LINE = 4096
_MOST_CRASHES = 8
# So few rules are not worth the start of a process, though an instance may end this one.
_FEW = 8

_Found: TypeAlias = "dict[str, Any] | None"
"""What a finding holds but for its rule; None of a rule that is not active in the process that was asked."""

# Of the process that it is in: memory for the line that it runs, shared with the one that started it.
_current: Any = None
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
    if jobs <= 1 and len(chosen) <= _FEW:
        yield from verify(rules, chosen, examples=examples, seed=seed)
        return

    def pool(jobs: int, current: Any = None) -> ProcessPoolExecutor:
        return processes(jobs, initial_arguments(rules, files), current)

    def finding(rule: Rule, found: _Found) -> Finding:
        # None where the rule's op is of a package that only this process has imported.
        return try_rule(rules, rule, examples, seed) if found is None else Finding(rule, **found)

    digest = _contents(rules)
    settled: dict[int, Finding] = {}
    at = 0
    while at < len(chosen):
        left = [number for number in range(at, len(chosen)) if number not in settled]
        if _contents(rules) != digest:
            raise EngineError("the rules changed while they were verified; start again")
        with pool(jobs) as workers:
            futures = {
                number: workers.submit(_try, chosen[number].kind, chosen[number].id, examples, seed) for number in left
            }
            try:
                while at < len(chosen):
                    known = settled.pop(at, None)
                    yield known if known is not None else finding(chosen[at], futures[at].result())
                    at += 1
            except BrokenProcessPool:
                workers.shutdown(cancel_futures=True)
        if at < len(chosen):
            for number, future in futures.items():
                if number >= at and future.done() and not future.cancelled() and future.exception() is None:
                    settled[number] = finding(chosen[number], future.result())
            # One of the rules at work ended its process, and with it the others: they go on alone.
            suspects = [number for number in left if number >= at and number not in settled][:jobs]
            with ThreadPoolExecutor(jobs) as threads:
                alone = [threads.submit(_alone, chosen[number], finding, pool, examples, seed) for number in suspects]
            settled.update(zip(suspects, (future.result() for future in alone), strict=True))


def _alone(
    rule: Rule,
    finding: Callable[[Rule, _Found], Finding],
    pool: Callable[[int, Any], ProcessPoolExecutor],
    examples: int,
    seed: int,
) -> Finding:
    """Try a rule in a process of its own; without the lines that end it, should there be any."""
    crashed: list[str] = []
    while True:
        current = multiprocessing.get_context(_START).Array("c", _LONGEST_LINE)
        with pool(1, current) as worker:
            try:
                found = worker.submit(_try, rule.kind, rule.id, examples, seed, tuple(crashed)).result()
                return finding(rule, found and {**found, "crashed": tuple(crashed)})
            except BrokenProcessPool:
                line = current.value.decode(errors="replace")  # type: ignore[attr-defined]
        if not line:
            raise EngineError(f"{rule.where}: {rule.id}: the process to try it in ended at its start; see above")
        if line in crashed or line in map(written, rule.tests):
            return Finding(rule, wrong=line, error="ends the process that runs it")
        crashed.append(line)
        if len(crashed) == _MOST_CRASHES:
            return Finding(rule, crashed=tuple(crashed))


def initial_arguments(rules: RuleSet, files: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """What :func:`start` needs in another process: the files, the modules that register host functions, a digest."""
    modules = tuple(sorted({function.__module__ for function in rules.hosts.values()}))
    return tuple(files), modules, _contents(rules)


def processes(jobs: int, initial: Sequence[Any], current: Any = None) -> ProcessPoolExecutor:
    """Processes that are made ready by :func:`start`, with what :func:`initial_arguments` gave."""
    context = multiprocessing.get_context(_START)
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=start, initargs=(*initial, current))


def loaded() -> RuleSet:
    """The rules of a process that :func:`start` has made ready."""
    assert _rules is not None
    return _rules


def start(files: Sequence[str], modules: Sequence[str], digest: str, current: Any = None) -> None:
    """Make a process ready: PyTorch with one thread, host functions registered, rules loaded.

    Raises:
        EngineError: the rules are not those of the process that asks.
    """
    import torch

    from engine.dsl.ruleset import RuleSet

    global _rules, _current
    _current = current
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    for module in modules:
        importlib.import_module(module)
    _rules = RuleSet.load(*files)
    if _contents(_rules) != digest:
        raise EngineError("the rules changed while they were verified; start again")
    _by_name.update({(rule.kind, rule.id): rule for rule in _rules.rules})


def _end_with_parent() -> None:
    # A pool whose owner is killed waits for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _contents(rules: RuleSet) -> str:
    """A digest of the files, whatever of them is active in this process."""
    return hashlib.sha256(b"".join(Path(path).read_bytes() for path in rules.sources)).hexdigest()


def _try(kind: str, name: str, examples: int, seed: int, avoid: tuple[str, ...] = ()) -> _Found:
    rule = _by_name.get((kind, name))
    if rule is None:
        return None
    found = try_rule(loaded(), rule, examples, seed, avoid=avoid, told=_told)
    # The rule itself stays: the other process has it, and its text is decoded where it is needed.
    return {field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.name != "rule"}


def _told(line: str) -> None:
    if _current is not None:
        _current.value = line.encode()[: _LONGEST_LINE - 1]


__all__ = ["initial_arguments", "loaded", "processes", "start", "verify_in_processes"]
