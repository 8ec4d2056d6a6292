"""The line that shows how many tokens there are, and how many a second."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn
from rich.text import Text


class _Speed(TextColumn):
    """Tokens a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.completed / task.elapsed:.1f} a second" if task.elapsed else "")


def counted(stream: Iterator[torch.Tensor], count: int) -> Iterator[torch.Tensor]:
    """The tokens of a stream of ``count``, shown on stderr as they come."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(""))
    with Progress(*columns, console=Console(stderr=True)) as shown:
        yield from shown.track(stream, total=count, description="tokens")


__all__ = ["counted"]
