"""Questions about sizes that have the same answer for every size that was asked for, while a model is captured."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sympy
from torch.fx.experimental.symbolic_shapes import ShapeEnv, uninteresting_files
from torch.utils._sympy.functions import Mod
from torch.utils._sympy.symbol import SymT, symbol_is_type

from engine.capture.inputs import unbounded
from engine.graph.symbolic.all_sizes import holds_for_all

_LOCK = threading.RLock()


@contextmanager
def answers_for_all_sizes(least: int, proven: dict[sympy.Basic, None]) -> Iterator[None]:
    """Answer what holds for all sizes without a guard on it.

    PyTorch's solver knows little of quotients and remainders: it takes minutes over ``(3 * b - 1) // b == 2``, or
    gives up and fixes the size.  All sizes of a range are few enough to be tried.

    Args:
        least: the smallest size that was asked for of any dim: where a range begins at 2 or less, it begins there.
        proven: gets the equalities that were found to hold.
    """
    evaluate = ShapeEnv.evaluate_expr
    kept: dict[tuple[int, Any, int], bool] = {}
    ranges: dict[tuple[int, Any], tuple[int, int] | None] = {}

    def answer(asked: ShapeEnv, question: Any, hint: Any = None, *others: Any, **options: Any) -> Any:
        if not isinstance(hint, int) or not isinstance(question, sympy.Basic) or not question.free_symbols:
            return evaluate(asked, question, hint, *others, **options)
        key = id(asked), question, hint
        if key not in kept:
            for symbol in question.free_symbols:
                # As they were before any question narrowed them.
                ranges.setdefault((id(asked), symbol), _range(asked, symbol, least))
            spans = {symbol: ranges[id(asked), symbol] for symbol in question.free_symbols}
            relation = _relation(question, hint)
            kept[key] = bool(spans) and None not in spans.values() and holds_for_all(relation, spans)  # type: ignore[arg-type]
            if kept[key] and isinstance(relation, sympy.Eq):
                proven[relation] = None
                if relation.has(Mod):
                    # What divides is written as an exact quotient from now on.
                    asked._maybe_guard_rel(relation)
        return sympy.sympify(hint) if kept[key] else evaluate(asked, question, hint, *others, **options)

    with _LOCK:
        # A ``ShapeEnv`` notes who asks, which is never this file.
        uninteresting_files().add(__file__)
        ShapeEnv.evaluate_expr = answer  # type: ignore[method-assign]
        try:
            yield
        finally:
            ShapeEnv.evaluate_expr = evaluate  # type: ignore[method-assign]


def _relation(question: Any, hint: int) -> Any:
    """What holds of the example: a question or its opposite, or that a number is what it is."""
    if isinstance(hint, bool):
        return question if hint else ~question
    return sympy.Eq(question, hint)


def _range(shape_env: ShapeEnv, symbol: Any, least: int) -> tuple[int, int] | None:
    """The sizes that a symbol may have; None where that is not known."""
    known = shape_env.var_to_range.get(symbol)
    hints = getattr(shape_env, "backed_var_to_val", None) or getattr(shape_env, "var_to_val", {})
    if known is None or symbol not in hints or not known.lower.is_Integer:
        return None
    low = int(known.lower)
    if symbol_is_type(symbol, SymT.SIZE):
        low = least if low <= 2 else low
        high = int(known.upper) if known.upper.is_Integer and known.upper < 1 << 31 else unbounded(int(hints[symbol]))
        return low, max(low, high)
    return (low, int(known.upper)) if known.upper.is_Integer and known.upper < 1 << 31 else None


__all__ = ["answers_for_all_sizes"]
