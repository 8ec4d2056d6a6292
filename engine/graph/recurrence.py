"""Recurrent ops, traced whole.

PyTorch's Python kernels and decompositions of ``lstm``, ``gru`` and ``rnn`` take the sequence apart, step by step,
which fixes its length and takes long.  They only run where a graph is traced, and all that tracing needs of them is
shapes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

_LOCK = threading.RLock()


def _lstm(
    x: torch.Tensor, states: Sequence[torch.Tensor], params: object, biases: bool, layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    hidden, cell = states
    return _result(x, hidden, bidirectional), torch.empty_like(hidden), torch.empty_like(cell)


def _one_state(
    x: torch.Tensor, hidden: torch.Tensor, params: object, biases: bool, layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    return _result(x, hidden, bidirectional), torch.empty_like(hidden)


def _result(x: torch.Tensor, hidden: torch.Tensor, bidirectional: bool) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], hidden.shape[-1] * (2 if bidirectional else 1)))


# Data about PyTorch: its ops whose Python kernels take a sequence apart.
_KERNELS: dict[torch._ops.OpOverload, Callable[..., Any]] = {
    torch.ops.aten.lstm.input: _lstm,
    torch.ops.aten.gru.input: _one_state,
    torch.ops.aten.rnn_tanh.input: _one_state,
    torch.ops.aten.rnn_relu.input: _one_state,
}


def is_recurrent(op: object) -> bool:
    """Whether an op is one that :func:`whole_recurrence` is for."""
    return op in _KERNELS


@contextmanager
def whole_recurrence() -> Iterator[None]:
    """Let recurrent ops be traced by their shapes, and stay one node; eager kernels are untouched."""
    from torch._decomp import decomposition_table

    with _LOCK:
        saved = {op: dict(op.py_kernels) for op in _KERNELS}
        decompositions = {op: decomposition_table[op] for op in _KERNELS if op in decomposition_table}
        try:
            for op, kernel in _KERNELS.items():
                _set(op, dict.fromkeys(saved[op], kernel))
                if op in decompositions:
                    decomposition_table[op] = kernel
            yield
        finally:
            for op, kernels in saved.items():
                _set(op, kernels)
                if op in decompositions:
                    decomposition_table[op] = decompositions[op]


def _set(op: torch._ops.OpOverload, kernels: dict[Any, Callable[..., Any]]) -> None:
    op.py_kernels.clear()
    op.py_kernels.update(kernels)
    op._dispatch_cache.clear()


__all__ = ["is_recurrent", "whole_recurrence"]
