"""What the user asked of sizes, told to torch.export at the beginning of a trace."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch import nn
from torch.export import ExportedProgram, _trace
from torch.fx.experimental.symbolic_shapes import ShapeEnv, uninteresting_files
from torch.utils import _pytree as pytree

from engine.capture.examples import Examples, Wish, combined
from engine.capture.inputs import unbounded
from engine.graph.symbolic.implied import hints_of
from engine.graph.symbolic.proofs import Ranges
from engine.sizes import normal

_LOCK = threading.RLock()
# Larger bounds are torch.export's way of saying that there is none.
_NO_BOUND = 1 << 31
# Sizes up to this are looked at where nobody gave a bound: more than will be compiled for, so that bounds of the model
# are found.
_FAR = 1 << 14


@contextmanager
def asked_sizes(examples: Examples, ranges: Ranges) -> Iterator[None]:
    """Let torch.export know which dims the user called equal while it traces, and note which sizes they may have.

    It gives each dim a symbol of its own, and asks at the end whether the equalities that operators needed were
    promised.  Until then it knows of none: two batches that are put together and split by the size of the first are
    a number of parts that depends on both.

    Args:
        ranges: gets the smallest and the largest size of every dim of the examples for which something was asked.
    """
    make = getattr(_trace, "make_fake_inputs", None)
    if make is None:
        # Not a public function. Where PyTorch has none, dims are equal once an operator compares them.
        yield
        return

    def noted(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        mode, fake_args, fake_kwargs, equalities, *_ = made
        if not ranges:
            ranges.update(_ranges(examples, (fake_args, fake_kwargs)))
            _unify(mode.shape_env, equalities, ranges)
        return made

    with _LOCK:
        uninteresting_files().add(__file__)
        _trace.make_fake_inputs = noted  # type: ignore[attr-defined]
        try:
            yield
        finally:
            _trace.make_fake_inputs = make  # type: ignore[attr-defined]


@contextmanager
def asked_sizes_by_source(model: nn.Module, examples: Examples, ranges: Ranges) -> Iterator[None]:
    """The same for strict mode, which makes symbols as it comes to them: those of tensors that are arguments."""
    create = ShapeEnv.create_symbol
    named: dict[str, sympy.Symbol] = {}
    arguments = {f"L[{name!r}]": value for name, value in combined(model, examples.args, examples.kwargs).items()}
    # As PyTorch calls them from 2.13 on.
    leaves = pytree.tree_leaves((examples.args, examples.kwargs))
    arguments |= {f"L['flat_args'][{place}]": leaf for place, leaf in enumerate(leaves)}
    asked = {
        f"{name}.size()[{dim}]": examples.wishes[id(value), dim]
        for name, value in arguments.items()
        if isinstance(value, torch.Tensor)
        for dim in range(value.dim())
        if (id(value), dim) in examples.wishes
    }

    def noted(shape_env: ShapeEnv, value: Any, source: Any, *others: Any, **options: Any) -> Any:
        symbol = create(shape_env, value, source, *others, **options)
        name = source.name() if callable(source.name) else source.name
        if isinstance(symbol, sympy.Symbol) and name in asked:
            wish = asked[name]
            ranges[symbol] = _common(ranges.get(symbol), _asked(wish))
            first = named.setdefault(wish.name, symbol) if wish.name else symbol
            hints = hints_of(shape_env)
            # What torch.export does with examples that differ is an error that it words well.
            if first is not symbol and hints.get(first) == hints.get(symbol) is not None:
                ranges[first] = ranges[symbol] = _common(ranges[first], ranges[symbol])
                shape_env.evaluate_expr(sympy.Eq(first, symbol), True)
        return symbol

    with _LOCK:
        uninteresting_files().add(__file__)
        ShapeEnv.create_symbol = noted  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            ShapeEnv.create_symbol = create  # type: ignore[method-assign]


def program_ranges(program: ExportedProgram) -> Ranges:
    """The sizes that the dims of an exported program may have."""
    found: Ranges = {}
    for node in program.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" else None
        for size in value.shape if isinstance(value, torch.Tensor) else ():
            symbol = normal(size)
            bounds = program.range_constraints.get(symbol)  # type: ignore[arg-type]
            if isinstance(symbol, sympy.Symbol) and bounds is not None and bounds.lower.is_Integer:
                low = int(bounds.lower)
                finite = bool(bounds.upper.is_Integer) and bounds.upper < _NO_BOUND
                found[symbol] = (low if low == 0 or low > 2 else 1, int(bounds.upper) if finite else low + _FAR)
    return found


def _ranges(examples: Examples, fake: Any) -> Ranges:
    found: Ranges = {}
    leaves, fakes = (pytree.tree_leaves(each) for each in ((examples.args, examples.kwargs), fake))
    for leaf, value in zip(leaves, fakes, strict=False):
        if not isinstance(leaf, torch.Tensor) or not isinstance(value, torch.Tensor):
            continue
        for dim, size in enumerate(value.shape):
            symbol = normal(size)
            wish = examples.wishes.get((id(leaf), dim))
            if isinstance(symbol, sympy.Symbol) and wish is not None:
                found[symbol] = _common(found.get(symbol), _asked(wish))
    return found


def _asked(wish: Wish) -> tuple[int, int]:
    low = wish.min if wish.min is not None else 0 if wish.from_zero else 1
    return low, wish.max if wish.max is not None else max(low, unbounded(wish.opt)) + _FAR


def _common(first: tuple[int, int] | None, second: tuple[int, int]) -> tuple[int, int]:
    """The sizes of two ranges; those of the second where they have none in common, which is an error later on."""
    low, high = second if first is None else (max(first[0], second[0]), min(first[1], second[1]))
    return (low, high) if low <= high else second


def _unify(shape_env: ShapeEnv, promised: Any, ranges: Ranges) -> None:
    symbols = {source: symbol for symbol, sources in shape_env.var_to_sources.items() for source in sources}
    hints = hints_of(shape_env)
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
        known = [ranges[symbol] for symbol in (a, b) if symbol in ranges]
        if known:
            ranges[a] = ranges[b] = _common(known[0], known[-1])
        relation = sympy.Eq(shape_env.replace(a), shape_env.replace(b))
        if relation.free_symbols:
            shape_env.evaluate_expr(relation, True)


__all__ = ["asked_sizes", "asked_sizes_by_source", "program_ranges"]
