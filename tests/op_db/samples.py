"""The samples of an entry of the operator database, as calls whose tensors are inputs and whose rest is fixed."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy
import torch
from torch import nn
from torch.utils import _pytree as pytree

DTYPES = {"float32": torch.float32, "float16": torch.float16, "int64": torch.int64, "bool": torch.bool}


@functools.cache
def entries() -> dict[str, Any]:
    """Every entry by its name with its variant: ``std``, ``std.unbiased``."""
    from torch.testing._internal.common_methods_invocations import op_db

    return {
        f"{entry.name}.{entry.variant_test_name}" if entry.variant_test_name else entry.name: entry for entry in op_db
    }


def dtypes_of(entry: Any) -> list[str]:
    """Those of our dtypes that PyTorch allows for an entry on the CPU."""
    return [name for name, dtype in DTYPES.items() if entry.supports_dtype(dtype, "cpu")]


@dataclass(frozen=True)
class Call:
    """One sample: the tensors of its arguments in order, and how the call is put together from them.

    Attributes:
        entry: its name.
    """

    entry: str
    op: Callable[..., Any]
    tensors: tuple[torch.Tensor, ...]
    leaves: tuple[Any, ...]  # None in the places of tensors
    tensor_places: frozenset[int]
    spec: pytree.TreeSpec

    def __call__(self, tensors: Sequence[torch.Tensor]) -> list[Any]:
        """The leaves of the result."""
        args, kwargs = self.arguments(tensors)
        return pytree.tree_leaves(self.op(*args, **kwargs))

    def arguments(self, tensors: Sequence[torch.Tensor] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with these tensors or the sample's own."""
        rest = iter(self.tensors if tensors is None else tensors)
        leaves = [next(rest) if i in self.tensor_places else leaf for i, leaf in enumerate(self.leaves)]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return tuple(args), dict(kwargs)


def calls(name: str, dtype: str) -> list[Call]:
    """Every sample of an entry, the same ones each time."""
    from torch.testing._internal import common_utils
    from torch.testing._internal.opinfo import core

    entry = entries()[name]
    _seed(0)
    # Samples look for PyTorch's own test case that asks for them, in the source of every caller: a quarter of a second.
    with (
        mock.patch.object(common_utils, "extract_test_fn", _no_test),
        mock.patch.object(core, "extract_test_fn", _no_test),
        mock.patch.object(common_utils, "set_rng_seed", _seed),
    ):
        return [
            call_of(name, entry.op, (sample.input, *sample.args), dict(sample.kwargs))
            for sample in entry.sample_inputs("cpu", DTYPES[dtype], requires_grad=False)
        ]


def _seed(seed: int | None = None) -> None:
    """Begin random numbers anew, as PyTorch's tests do before each sample.

    ``torch.manual_seed`` notes for each kind of device that is not there where it was called from: a millisecond.
    """
    from torch.testing._internal import common_utils

    seed = common_utils.SEED if seed is None else seed
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed)


def _no_test() -> None:
    """None of PyTorch's own test cases asks for samples here."""


def call_of(entry: str, op: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Call:
    """A call of an op with these arguments, whose tensors become inputs."""
    leaves, spec = pytree.tree_flatten((tuple(args), kwargs))
    places = frozenset(i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor))
    rest = tuple(None if i in places else leaf for i, leaf in enumerate(leaves))
    return Call(entry, op, tuple(leaves[i] for i in sorted(places)), rest, places, spec)


class Batch(nn.Module):
    """Several calls side by side: one export and one engine for all of them."""

    def __init__(self, calls: Sequence[Call]) -> None:
        super().__init__()
        self.calls = calls

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """The tensors of all calls."""
        return tuple(tensor for call in self.calls for tensor in call.tensors)

    def forward(self, *tensors: torch.Tensor) -> tuple[list[Any], ...]:
        """The leaves of each result."""
        rest = iter(tensors)
        return tuple(call([next(rest) for _ in call.tensors]) for call in self.calls)
