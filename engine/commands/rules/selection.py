"""Which rules a command was asked about."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.dsl.rule import Rule


def in_files(files: Sequence[Path]) -> Callable[[Rule], bool]:
    """Whether a rule is of one of these files, or of a file in one of these folders."""
    places = [path.resolve() for path in files]

    @functools.cache
    def inside(name: str) -> bool:
        path = Path(name).resolve()
        return any(path == place or place in path.parents for place in places)

    return lambda rule: inside(rule.span.file)


__all__ = ["in_files"]
