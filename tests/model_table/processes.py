"""Models in processes of their own, with limits: one that hangs, fills the memory or crashes is a row like others."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from tests.model_table.judge import Row, refuse_memory
from tests.model_table.subject import Made, Subject

__all__ = ["Limits", "answers"]

# What every model needs is imported once; a process is a fork of that.
_PRELOADED = ["tests.model_table.preloaded"]


Find = Callable[[tuple[str, str]], Subject]


class Limits(NamedTuple):
    """Seconds of processor time for a form, and bytes of memory that a process may write to.

    A process that waits is ended after ten times these seconds.
    """

    seconds: float
    memory: int


class _Run:
    """A process that runs the forms of one model."""

    def __init__(self, context: Any, find: Find, key: tuple[str, str], forms: Sequence[str], limits: Limits) -> None:
        self.key, self.forms, self.limits = key, list(forms), limits
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, find, key, forms, limits.memory), daemon=True)
        self.process.start()
        theirs.close()
        self.over = False
        self._begin()

    def _begin(self) -> None:
        self.since, self.spent = time.monotonic(), self._processor_time()
        self.phase = "while the model was made"

    def _processor_time(self) -> float:
        """Seconds of the process and those that it waited for."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    @property
    def left(self) -> float:
        computing = self.spent + self.limits.seconds - self._processor_time()
        waiting = self.since + 10 * self.limits.seconds - time.monotonic()
        return max(min(computing, waiting), 0.0)

    def heard(self) -> Iterator[tuple[str, Row]]:
        """The rows that came; ends the process where its time is over, or where it is gone."""
        while self.connection.poll():
            try:
                kind, value = self.connection.recv()
            except EOFError:
                self.process.join()
                self.over = True
                if self.forms:
                    yield self._ended("crashed", _death(self.process.exitcode))
                return
            if kind == "phase":
                self.phase = value
            else:
                self._begin()
                yield self.forms.pop(0), Row(**value)
        if self.forms and not self.left:
            self.process.kill()
            self.process.join()
            self.over = True
            yield self._ended("over time", f"{self.limits.seconds:.0f} s {self.phase}")

    def _ended(self, outcome: str, words: str) -> tuple[str, Row]:
        reason = words if outcome == "over time" else f"{words} {self.phase}"
        return self.forms.pop(0), Row(outcome, reason=reason)


def _death(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def of_corpus(key: tuple[str, str]) -> Subject:
    """The model of the table that has a key."""
    from tests.model_table.corpus import corpus

    return corpus()[key]


def _work(connection: Connection, find: Find, key: tuple[str, str], forms: Sequence[str], memory: int) -> None:
    from tests.model_table.forms import FORMS
    from tests.model_table.judge import judged, words

    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    subject = find(key)
    import torch

    torch.set_num_threads(1)
    made: Any = None
    for form in forms:
        try:
            if made is None:
                torch.manual_seed(0)
                made = _made(subject)
            row = judged(subject, made, FORMS[form], lambda phase: connection.send(("phase", phase)))
        except MemoryError:
            row = Row("over memory", reason=f"{memory >> 30} GiB")
        except Exception as error:
            row = Row("crashed", reason=words(error))
        connection.send(("row", vars(row)))


def _made(subject: Subject) -> Made:
    try:
        return subject.make()
    except Exception as error:
        refuse_memory(error)
        raise


def answers(
    work: Sequence[tuple[tuple[str, str], Sequence[str]]], jobs: int, limits: Limits, find: Find = of_corpus
) -> Iterator[tuple[tuple[str, str], str, Row]]:
    """Run each model with its forms; gives model, form and row as they come.

    Args:
        work: (library, model) with its forms.
        jobs: processes at once.
        limits: of each of them.
        find: the model of a key; processes are given it, so that it must be a function that they can import.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    waiting = list(reversed(work))
    running: list[_Run] = []
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(_Run(context, find, *waiting.pop(), limits))
        wait([run.connection for run in running], min(run.left for run in running))
        for run in list(running):
            for form, row in run.heard():
                yield run.key, form, row
            if run.over or not run.forms:
                run.process.join()
                running.remove(run)
                # A form that ended its process takes no other with it.
                if run.forms:
                    waiting.append((run.key, run.forms))
