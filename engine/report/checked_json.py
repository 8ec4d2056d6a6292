"""Values of JSON that others wrote, each of the kind that it has to be."""

from __future__ import annotations

from typing import Any


def text(value: Any) -> str:
    """A text; raises TypeError where it is none, as all of these do."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def items(value: Any) -> list[Any]:
    """A list."""
    if not isinstance(value, list | tuple):
        raise TypeError(f"{value!r:.40} is no list")
    return list(value)


def count(value: Any, least: int = 0) -> int:
    """A whole number that is not below ``least``."""
    if type(value) is not int or value < least:
        raise TypeError(f"{value!r:.40} is no whole number from {least} on")
    return value


def number(value: Any) -> float:
    """A number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r:.40} is no number")
    return float(value)


def optional(value: Any) -> float | None:
    """A number, or null."""
    return None if value is None else number(value)


def numbers(value: Any) -> dict[str, float]:
    """Numbers by names."""
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.40} is no object")
    return {text(name): number(each) for name, each in value.items()}


def pairs(value: Any) -> tuple[tuple[str, str], ...]:
    """Pairs of texts."""
    found = [tuple(map(text, items(pair))) for pair in items(value)]
    if any(len(pair) != 2 for pair in found):
        raise TypeError("a pair has two")
    return tuple((one, other) for one, other in found)


__all__ = ["count", "items", "number", "numbers", "optional", "pairs", "text"]
