"""Which expressions of rules were evaluated, and to what: for tools that ask what test lines reach.

Off, it costs nothing: what records is compiled apart.  It is on for the whole process, so it is no tool for code that
evaluates rules in several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from engine.dsl import tree
from engine.errors import Span
from engine.evaluator.closures.code import Code, Names
from engine.evaluator.closures.compilation import Compiler, Made, Source

if TYPE_CHECKING:
    from engine.evaluator.context import Context

Visits = dict[Span, set[Any]]
"""Expressions by place; with the truths they had, ``empty`` for an empty list, and None for anything else."""


class _Recorder(Compiler):
    """A compiler whose code writes down what it evaluates to; it keeps what it makes to itself."""

    def __init__(self, visits: Visits) -> None:
        self._visits = visits
        # With the source, so that its id is not used again.
        self._made_of: dict[int, tuple[Any, Any]] = {}

    def _made(self, expr: tree.Expr) -> Code:
        code, visits, span = super()._made(expr), self._visits, expr.span

        def recorded(names: Names, context: Context) -> Any:
            value = code(names, context)
            outcome = value if isinstance(value, bool) else "empty" if isinstance(value, list) and not value else None
            visits.setdefault(span, set()).add(outcome)
            return value

        return recorded

    def _kept(self, source: Source, make: Callable[[Source], Made]) -> Made:
        if id(source) not in self._made_of:
            self._made_of[id(source)] = source, make(source)
        return self._made_of[id(source)][1]  # type: ignore[no-any-return]


_current = Compiler()


def current() -> Compiler:
    """The compiler of contexts that are made now."""
    return _current


@contextmanager
def recording(visits: Visits) -> Iterator[Visits]:
    """Add to ``visits`` what is evaluated in contexts that are made in this one."""
    global _current
    before, _current = _current, _Recorder(visits)
    try:
        yield visits
    finally:
        _current = before


__all__ = ["Visits", "current", "recording"]
