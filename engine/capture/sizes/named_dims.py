"""Dims of one name have one size from the beginning of a trace, not from the first operator that compares them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sympy
from torch.export import _trace
from torch.fx.experimental.symbolic_shapes import ShapeEnv, uninteresting_files

_LOCK = threading.RLock()


@contextmanager
def equal_by_name() -> Iterator[None]:
    """Let torch.export know which dims the user called equal while it traces.

    It gives each dim a symbol of its own, and asks at the end whether the equalities that operators needed were
    promised.  Until then it knows of none: two batches that are put together and split by the size of the first are
    a number of parts that depends on both.
    """
    make = getattr(_trace, "make_fake_inputs", None)
    if make is None:
        # Not a public function. Where PyTorch has none, dims are equal once an operator compares them.
        yield
        return

    def unified(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        _unify(made[0].shape_env, made[3])
        return made

    with _LOCK:
        uninteresting_files().add(__file__)
        _trace.make_fake_inputs = unified  # type: ignore[attr-defined]
        try:
            yield
        finally:
            _trace.make_fake_inputs = make  # type: ignore[attr-defined]


def _unify(shape_env: ShapeEnv, promised: Any) -> None:
    symbols = {source: symbol for symbol, sources in shape_env.var_to_sources.items() for source in sources}
    hints = getattr(shape_env, "backed_var_to_val", None) or getattr(shape_env, "var_to_val", {})
    pairs = list(promised.source_pairs)
    # Dims that are the same function of a dim that no input has.
    by_definition: dict[Any, Any] = {}
    for source, definition in getattr(promised, "_defs", {}).items():
        pairs.append((by_definition.setdefault(definition, source), source))
    for first, second in pairs:
        a, b = symbols.get(first), symbols.get(second)
        # Examples that differ are an error that torch.export words well.
        if a is None or b is None or a not in hints or hints[a] != hints.get(b):
            continue
        relation = sympy.Eq(shape_env.replace(a), shape_env.replace(b))
        if relation.free_symbols:
            shape_env.evaluate_expr(relation, True)


__all__ = ["equal_by_name"]
