"""The time that measurements may take, and how far they are, shown on a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Budget:
    """Seconds that may be spent, counted from when this is made.

    Args:
        seconds: see the setting ``tune_budget``.
    """

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    @property
    def left(self) -> bool:
        """Whether there is time for another question; one that was begun is brought to its end."""
        return time.monotonic() < self._until


class Shown:
    """A bar on stderr, or nothing where that is no terminal."""

    def __init__(self, bar: Progress | None, task: TaskID | None) -> None:
        self._bar, self._task = bar, task

    def begins(self, text: str, total: int | None = None) -> None:
        """Say what is being done, and of how many."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=f"tuning: {text}")
            if total is not None:
                self._bar.update(self._task, total=total, completed=0)

    def done(self) -> None:
        """One of them is done."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)


@contextmanager
def shown() -> Iterator[Shown]:
    """A bar while the body runs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Shown(None, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield Shown(bar, bar.add_task("tuning", total=None))


__all__ = ["Budget", "Shown", "shown"]
