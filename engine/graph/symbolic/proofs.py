"""Questions about sizes that have the same answer for every size that was asked for."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import sympy
from sympy.logic.boolalg import BooleanAtom
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy.functions import Mod

from engine.graph.symbolic.all_sizes import holds_for_all
from engine.graph.symbolic.answers import answered_as_in_example
from engine.graph.symbolic.layouts import layouts_by_hint

Ranges: TypeAlias = "dict[sympy.Symbol, tuple[int, int]]"


class Proofs:
    """What holds of sizes for all that were asked for; each question is looked at once.

    Attributes:
        ranges: the smallest and the largest size of symbols; of others nothing is found.  Tracing may add to it.
        proven: the equalities that were found to hold.
        unless_empty: the relations that were found to hold but where a size is 0, which has to be tried.
    """

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        self.proven: dict[sympy.Basic, None] = {}
        self.unless_empty: dict[sympy.Basic, None] = {}
        self._kept: dict[tuple[int, Any, Any], bool] = {}

    def clear(self) -> None:
        """Forget everything, the ranges too."""
        for each in (self.ranges, self.proven, self.unless_empty, self._kept):
            each.clear()

    def answers(self, shape_env: ShapeEnv, question: Any, hint: Any) -> bool:
        """Whether the answer to a question is the example's for all sizes."""
        if not isinstance(hint, int) or isinstance(question, BooleanAtom | sympy.Integer):
            return False
        key = id(shape_env), question, hint
        if key not in self._kept:
            relation = _relation(question, hint)
            symbols = getattr(relation, "free_symbols", None)
            self._kept[key] = bool(symbols) and symbols <= self.ranges.keys() and self._holds(relation)  # type: ignore[operator]
            if self._kept[key] and isinstance(relation, sympy.Eq) and relation.has(Mod):
                # What divides is written as an exact quotient from now on.
                shape_env._maybe_guard_rel(relation)
        return self._kept[key]

    def _holds(self, relation: sympy.Basic) -> bool:
        asked: list[Any] = [(symbol, self.ranges[symbol]) for symbol in relation.free_symbols]  # type: ignore[index]
        if any(high < 1 for _, (_, high) in asked):
            return False
        if not holds_for_all(relation, {symbol: (max(low, 1), high) for symbol, (low, high) in asked}):
            return False
        if any(low < 1 for _, (low, _) in asked) and not holds_for_all(relation, self.ranges):
            self.unless_empty[relation] = None
        elif isinstance(relation, sympy.Eq):
            self.proven[relation] = None
        return True


_OF_CALLS: weakref.WeakKeyDictionary[ShapeEnv, Proofs] = weakref.WeakKeyDictionary()


def prove_for_calls(shape_env: ShapeEnv, ranges: Ranges) -> None:
    """Let inference that follows know the sizes that calls may have."""
    _OF_CALLS[shape_env] = Proofs(dict(ranges))


@contextmanager
def answers_of_calls(shape_env: ShapeEnv) -> Iterator[None]:
    """Answer what holds for all sizes of calls, and what only lays out memory, without a guard on it."""
    proofs = _OF_CALLS.get(shape_env)
    with layouts_by_hint(shape_env), nullcontext() if proofs is None else _as_proven(shape_env, proofs):
        yield


@contextmanager
def answers_for_all_sizes(proofs: Proofs) -> Iterator[None]:
    """Answer what holds for all sizes without a guard on it.

    PyTorch's solver knows little of quotients and remainders: it takes minutes over ``(3 * b - 1) // b == 2``, or
    gives up and fixes the size.  All sizes of a range are few enough to be tried.
    """
    with _as_proven(None, proofs):
        yield


def _as_proven(shape_env: ShapeEnv | None, proofs: Proofs) -> AbstractContextManager[None]:
    return answered_as_in_example(shape_env, lambda asked, question, hint, _: proofs.answers(asked, question, hint))


def _relation(question: Any, hint: int) -> Any:
    """What holds of the example: a question or its opposite, or that a number is what it is."""
    if isinstance(hint, bool):
        return question if hint else ~question
    return sympy.Eq(question, hint)


__all__ = ["Proofs", "Ranges", "answers_for_all_sizes", "answers_of_calls", "prove_for_calls"]
