"""Names that are unique in a graph."""

from __future__ import annotations


def unique(name: str, taken: set[str], separator: str = "_") -> str:
    """``name``, with a number when it is taken; what is given is taken from then on."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}{separator}{number}"
    taken.add(candidate)
    return candidate


__all__ = ["unique"]
