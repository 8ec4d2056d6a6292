"""Questions about sizes that have the same answer for every size that was asked for, while a model is captured."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sympy
from torch.fx.experimental.symbolic_shapes import ShapeEnv, uninteresting_files
from torch.utils._sympy.functions import Mod

from engine.capture.sizes.asked_sizes import Ranges
from engine.graph.symbolic.all_sizes import holds_for_all

_LOCK = threading.RLock()


@contextmanager
def answers_for_all_sizes(
    ranges: Ranges, proven: dict[sympy.Basic, None], unless_empty: dict[sympy.Basic, None]
) -> Iterator[None]:
    """Answer what holds for all sizes without a guard on it.

    PyTorch's solver knows little of quotients and remainders: it takes minutes over ``(3 * b - 1) // b == 2``, or
    gives up and fixes the size.  All sizes of a range are few enough to be tried.

    Args:
        ranges: the smallest and the largest size of symbols; of others nothing is found.  Tracing may add to it.
        proven: gets the equalities that were found to hold.
        unless_empty: gets the relations that were found to hold but where a size is 0, which has to be tried.
    """
    evaluate = ShapeEnv.evaluate_expr
    kept: dict[tuple[int, Any, int], bool] = {}

    def proves(relation: sympy.Basic) -> bool:
        symbols = relation.free_symbols
        from_one = {symbol: (max(low, 1), high) for symbol, (low, high) in ranges.items() if symbol in symbols and high}
        if len(from_one) < len(symbols) or not holds_for_all(relation, from_one):
            return False
        if any(ranges[symbol][0] < 1 for symbol in symbols) and not holds_for_all(relation, ranges):  # type: ignore[index]
            unless_empty[relation] = None
        elif isinstance(relation, sympy.Eq):
            proven[relation] = None
        return True

    def answer(asked: ShapeEnv, question: Any, hint: Any = None, *others: Any, **options: Any) -> Any:
        if not isinstance(hint, int) or not isinstance(question, sympy.Basic) or not question.free_symbols:
            return evaluate(asked, question, hint, *others, **options)
        key = id(asked), question, hint
        if key not in kept:
            relation = _relation(question, hint)
            kept[key] = question.free_symbols <= ranges.keys() and proves(relation)
            if kept[key] and isinstance(relation, sympy.Eq) and relation.has(Mod):
                # What divides is written as an exact quotient from now on.
                asked._maybe_guard_rel(relation)
        return sympy.sympify(hint) if kept[key] else evaluate(asked, question, hint, *others, **options)

    with _LOCK:
        # A ``ShapeEnv`` notes who asks, which is never this file.
        uninteresting_files().add(__file__)
        ShapeEnv.evaluate_expr = answer  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            ShapeEnv.evaluate_expr = evaluate  # type: ignore[method-assign]


def _relation(question: Any, hint: int) -> Any:
    """What holds of the example: a question or its opposite, or that a number is what it is."""
    if isinstance(hint, bool):
        return question if hint else ~question
    return sympy.Eq(question, hint)


__all__ = ["answers_for_all_sizes"]
