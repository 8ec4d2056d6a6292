"""What PyTorch prepares before it decomposes a program, kept from one program to the next.

To leave composites whole, ``run_decompositions`` lists them anew once for every namespace of ops, and gives each of
some five hundred about twenty kernels, twice, to take them away again.  That is the same each time, and takes longer
than all the rest for a small model: 0.15 of 0.17 s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch

_Kernels = dict[Any, Callable[..., Any]]


class _Overridden(NamedTuple):
    """An op whose composite kernel PyTorch has overridden before: with what, and the kernels before and then."""

    by: Callable[..., Any]
    before: _Kernels
    then: _Kernels
    fake: Callable[..., Any]


_OVERRIDDEN: dict[torch._ops.OpOverload, _Overridden] = {}


@contextmanager
def remembered_composites() -> Iterator[None]:
    """Let ``run_decompositions`` list composites once, and override them as it did before; its results are the same.

    Under the lock of :func:`engine.capture.tracing.tracing_lock.tracing_lock`.  Where a PyTorch names these steps
    otherwise, it takes them as it does.
    """
    from torch._export import utils
    from torch.export import exported_program

    listing = getattr(utils, "_materialize_cpp_cia_ops", None)
    override = getattr(exported_program, "_override_composite_implicit_decomp", None)
    with ExitStack() as stack:
        if listing is not None:
            stack.enter_context(_replaced(utils, listing, _once(listing)))
        if override is not None:
            stack.enter_context(_replaced(exported_program, override, _remembering(override)))
        yield


@contextmanager
def _replaced(module: Any, function: Callable[..., Any], by: Callable[..., Any]) -> Iterator[None]:
    setattr(module, function.__name__, by)
    try:
        yield
    finally:
        setattr(module, function.__name__, function)


def _once(function: Callable[[], None]) -> Callable[[], None]:
    waiting = [function]

    def first_time() -> None:
        while waiting:
            waiting.pop()()

    return first_time


def _remembering(override: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch's context manager for a mapping from ops to what takes the place of their composite kernels."""
    from torch._subclasses import fake_impls

    rules = fake_impls.op_implementations_dict

    @contextmanager
    def overridden(composites: Mapping[torch._ops.OpOverload, Callable[..., Any]]) -> Iterator[None]:
        before: dict[torch._ops.OpOverload, _Kernels] = {}
        new = {}
        for op, by in composites.items():
            known = _OVERRIDDEN.get(op)
            if known is None or known.by is not by or op in rules or known.before != op.py_kernels:
                new[op] = by
            else:
                before[op] = known.before
        unruled = {op: dict(op.py_kernels) for op in new if op not in rules}
        with override(new):
            for op, kernels in unruled.items():
                _OVERRIDDEN[op] = _Overridden(new[op], kernels, dict(op.py_kernels), rules[op])
            try:
                for op in before:
                    _set(op, _OVERRIDDEN[op].then)
                    rules[op] = _OVERRIDDEN[op].fake
                yield
            finally:
                for op, kernels in before.items():
                    _set(op, kernels)
                    rules.pop(op, None)

    return overridden


def _set(op: torch._ops.OpOverload, kernels: _Kernels) -> None:
    op.py_kernels.clear()
    op.py_kernels.update(kernels)
    op._dispatch_cache.clear()


__all__ = ["remembered_composites"]
