"""Which expressions of rules were evaluated, and to what: for tools that ask what test lines reach.

Off, it costs nothing: the evaluator's table has no entries that record.  It is on for the whole process, so
it is no tool for code that evaluates rules in several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from engine.errors import Span
from engine.evaluator.evaluation import _EVALUATORS, Env

Visits = dict[Span, set[Any]]
"""Expressions by place; with the truths they had, ``empty`` for an empty list, and None for anything else."""


@contextmanager
def recording(visits: Visits) -> Iterator[Visits]:
    """Add what is evaluated in this context to ``visits``."""
    before = dict(_EVALUATORS)
    _EVALUATORS.update({kind: _recorded(evaluator, visits) for kind, evaluator in before.items()})
    try:
        yield visits
    finally:
        _EVALUATORS.update(before)


def _recorded(evaluator: Callable[[Any, Env], Any], visits: Visits) -> Callable[[Any, Env], Any]:
    def recorded(expr: Any, env: Env) -> Any:
        value = evaluator(expr, env)
        outcome = value if isinstance(value, bool) else "empty" if isinstance(value, list) and not value else None
        visits.setdefault(expr.span, set()).add(outcome)
        return value

    return recorded


__all__ = ["Visits", "recording"]
