"""Searches for faults: inputs made at random, each compared with what PyTorch, or the documentation, says.

Each module ``tests/fuzz/fuzz_*.py`` is one search:

- ``NAME``: what it is called on the command line.
- ``CASES``: how many cases the full search has; ``FIXED``: how many of the seed 0 ``make test`` runs each time.
- ``run(count, seed)``: makes ``count`` cases and gives a line for each fault. Cases depend on ``seed`` and their number
  only, so a line that names both can be made again. A case that a search cannot make is no fault and counts.

``make fuzz`` runs all of them, ``python -m tests.fuzz NAME --count 100 --seed 3`` some.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol


class Search(Protocol):
    """What a module of this package that is a search has."""

    NAME: str
    CASES: int
    FIXED: int

    def run(self, count: int, seed: int) -> list[str]:
        """A line for each fault that was found in ``count`` cases."""


def searches() -> dict[str, Search]:
    """Every search of this package, by its name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name.startswith("fuzz_"))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {module.NAME: module for module in modules}  # type: ignore[misc]
