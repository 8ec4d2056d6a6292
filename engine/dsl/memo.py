"""Results computed from rules, kept for the next graph that is compiled with the same rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from engine.dsl.rule import Rule

Made = TypeVar("Made")


class Recent(Generic[Made]):
    """Calls of ``make`` by the identity of their rules and further arguments; the last few are kept."""

    def __init__(self, make: Callable[..., Made], most: int = 8) -> None:
        self._make = make
        self._most = most
        # What is kept alive beside the result keeps an id from being used again.
        self._kept: dict[tuple[int, ...], tuple[tuple[Any, ...], Made]] = {}

    def __call__(self, rules: Sequence[Rule], *arguments: Any) -> Made:
        """``make(rules, *arguments)``, or what it gave for these very objects."""
        objects = (*rules, *arguments)
        key = tuple(map(id, objects))
        kept = self._kept.pop(key, None) or (objects, self._make(rules, *arguments))
        self._kept[key] = kept
        while len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]
        return kept[1]
