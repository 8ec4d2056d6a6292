"""Relations between sizes that are waived: they decide nothing, and what they hid is looked for.

``torch.export`` compares sizes to lay out memory, and takes every size to be 2 or more.  Calls are not held against
that.  But once such a relation is noted in a ``ShapeEnv`` it is a fact there: later questions of the same text are
answered by it and leave no trace, and rules would be chosen by it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import sympy
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from engine.capture.inputs import Range
from engine.capture.sizes.guards import Guard, Sizes, excludes_small, holds_always, replaced
from engine.capture.sizes.small_size_check import Difference
from engine.graph.symbolic.inference import forget_answers

# Sizes of a relation that are looked at, that are tried for it, and trials of one capture.
_MOST_LOOKS, _MOST_TRIES, _MOST_TRIALS = 2048, 3, 24


def real_guards(
    waived: Sequence[Guard],
    guards: Sequence[Guard],
    ranges: Mapping[sympy.Symbol, Range],
    trial: Callable[[Sizes], Difference | None],
) -> list[Guard]:
    """Waived relations that the graph is not the model without, with what comes out differently.

    Graph and model are run at sizes at which a relation does not hold; several relations share a run where they can.
    A relation is also kept where the model itself refuses all sizes from 2 on that were tried for it.

    Args:
        guards: what calls are held against; sizes at which one does not hold tell nothing.
        trial: what comes out differently at some sizes, None if nothing does.
    """
    # An equality says most: where one is found, what else is broken by the same sizes need not be at fault.
    pending = [guard for guard in waived if not holds_always(guard, ranges)]
    pending.sort(key=lambda guard: not isinstance(guard.relation, sympy.Eq))
    usual = {symbol: allowed.opt for symbol, allowed in ranges.items()}
    real: list[Guard] = []
    trials = 0
    while pending:
        guard = pending.pop(0)
        found: Difference | None = None
        for sizes in itertools.islice(_breaking(guard, [*guards, *real], pending, ranges), _MOST_TRIES):
            if trials == _MOST_TRIALS:
                break
            trials += 1
            found = trial(usual | sizes)
            if found is None:
                pending = [other for other in pending if other.holds(usual | sizes)]
                break
        if found is None or (found.refused and min(sizes.values()) < 2):
            continue
        real.append(replace(guard, asked=True, found=found.text))
    return real


def _breaking(
    guard: Guard, kept: Sequence[Guard], others: Sequence[Guard], ranges: Mapping[sympy.Symbol, Range]
) -> Iterator[dict[sympy.Symbol, int]]:
    """Sizes at which a guard does not hold and those that are kept do; what breaks most of the others comes first."""
    looked = itertools.islice(_near(guard.symbols, ranges), _MOST_LOOKS)
    usual = {symbol: allowed.opt for symbol, allowed in ranges.items()}
    breaking = (sizes for sizes in looked if not guard.holds(sizes) and all(each.holds(usual | sizes) for each in kept))
    broken = itertools.islice(breaking, 2 * _MOST_TRIES)
    yield from sorted(broken, key=lambda sizes: sum(other.holds(usual | sizes) for other in others))


def _near(symbols: Sequence[sympy.Symbol], ranges: Mapping[sympy.Symbol, Range]) -> Iterator[dict[sympy.Symbol, int]]:
    """Sizes of symbols by their distance from the usual ones; those below 2 come last."""
    sizes = {symbol: _by_distance(ranges[symbol]) for symbol in symbols}
    usual = {symbol: ranges[symbol].opt for symbol in symbols}
    for place in range(max(map(len, sizes.values()), default=0)):
        moved = {symbol: found[min(place, len(found) - 1)] for symbol, found in sizes.items()}
        for symbol in symbols:
            yield usual | {symbol: moved[symbol]}
        if len(symbols) > 1:
            yield moved
            # Two dims may have to differ: one larger, one smaller.
            yield {
                symbol: sizes[symbol][min(place + turn, len(sizes[symbol]) - 1)] for turn, symbol in enumerate(symbols)
            }


def _by_distance(allowed: Range) -> list[int]:
    least, most = max(allowed.min, allowed.opt - _MOST_LOOKS), min(allowed.max, allowed.opt + _MOST_LOOKS)
    return sorted(range(least, most + 1), key=lambda size: (size < 2, abs(size - allowed.opt), size))


def believe_only(
    shape_env: ShapeEnv,
    kept: Collection[sympy.Basic],
    symbols: Collection[sympy.Symbol],
    ranges: Mapping[sympy.Symbol, Range],
    proven: Iterable[sympy.Basic] = (),
) -> tuple[sympy.Basic, ...]:
    """Let a ``ShapeEnv`` forget what it noted that calls need not have, and give what holds of all calls.

    The two differ by what PyTorch needs to infer shapes: that sizes are not 0 or 1.  What is believed of sizes read
    from data stays.

    Args:
        kept: relations that calls are held against.
        symbols: of the sizes of inputs.
        proven: equalities that hold for all sizes, and were never noted.
    """
    noted = list(shape_env.guards)
    shape_env.guards.clear()
    shape_env.axioms.clear()
    shape_env.divisible.clear()
    forget_answers(shape_env)
    facts: dict[sympy.Basic, None] = {}
    for asserted in shape_env.deferred_runtime_asserts.values():
        facts.update(dict.fromkeys(each.expr for each in asserted))
    for fact in facts:
        _note(shape_env, fact)
    for equality in dict.fromkeys(replaced(each, shape_env) for each in proven):
        if equality.free_symbols:
            facts[equality] = None
            shape_env._maybe_guard_rel(equality)  # type: ignore[arg-type]
            _note(shape_env, equality)
    always: dict[sympy.Basic, bool] = {}
    for guard in noted:
        relation = replaced(guard.expr, shape_env)
        if relation not in always:
            of_inputs = bool(relation.free_symbols) and all(symbol in symbols for symbol in relation.free_symbols)
            always[relation] = not of_inputs or relation in kept or holds_always(Guard(relation), ranges)
        if always[relation]:
            facts[guard.expr] = None
        if always[relation] or excludes_small(relation):
            # As the ShapeEnv did when it noted the guard: what is divisible follows from that.
            shape_env._maybe_guard_rel(guard.expr)
            shape_env.guards.append(guard)
            _note(shape_env, guard.expr)
    forget_answers(shape_env)
    return tuple(facts)


def _note(shape_env: ShapeEnv, relation: sympy.Basic) -> None:
    shape_env.axioms.update(dict(shape_env.get_implications(shape_env.simplify(relation))))  # type: ignore[arg-type, type-var]


__all__ = ["believe_only", "real_guards"]
