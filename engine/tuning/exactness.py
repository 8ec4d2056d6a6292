"""How exact a way is: its error against PyTorch in a wider dtype, beside that of eager PyTorch in the same dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from engine.capture import Captured

_HALVES = (torch.float16, torch.bfloat16)


class Reference:
    """What a graph computes for some inputs, exactly enough to compare others with.

    Half precision is compared with float32, and float32 with float64.

    Attributes:
        eager_error: that of PyTorch in the dtypes of the graph, relative to the largest value; at least half a unit
            in the last place of the dtype.
    """

    def __init__(self, captured: Captured, inputs: Sequence[Any]) -> None:
        states = [state.tensor for state in captured.states]
        given = pytree.tree_map_only(torch.Tensor, torch.clone, [*inputs, *states])
        plain = _run(captured, given, {})
        halves = any(tensor.dtype in _HALVES for tensor in [*_tensors(plain), *_tensors(given)])
        wide = dict.fromkeys(_HALVES, torch.float32) if halves else {torch.float32: torch.float64}
        given = pytree.tree_map_only(torch.Tensor, torch.clone, [*inputs, *states])
        self._count = len(plain) - len(captured.written)
        self._expected = [_host(tensor) for tensor in _run(captured, given, wide)[: self._count]]
        least = max((torch.finfo(t.dtype).eps for t in _tensors(plain) if t.is_floating_point()), default=0.0) / 2
        self.eager_error = max(self.error(plain), least)

    def error(self, outputs: Sequence[Any]) -> float:
        """The largest difference of any output, relative to the largest value of that output; inf where it is nan."""
        pairs = zip(self._expected, outputs[: self._count], strict=True)
        return max((_error(_host(actual), expected) for expected, actual in pairs), default=0.0)


def _host(value: Any) -> Any:
    return value.detach().to("cpu") if isinstance(value, torch.Tensor) else value


def _tensors(values: Sequence[Any]) -> list[torch.Tensor]:
    return [value for value in values if isinstance(value, torch.Tensor)]


def _error(actual: Any, expected: Any) -> float:
    if not isinstance(expected, torch.Tensor):
        return 0.0 if actual == expected else math.inf
    if not expected.numel():
        return 0.0
    if not expected.is_floating_point() or not actual.is_floating_point():
        # What is counted or compared may tip over where numbers are nearly equal: the share that differs.
        return float((actual != expected).double().mean())
    a, b = actual.double(), expected.double()
    finite = b.isfinite()
    if not torch.equal(a.isfinite(), finite):
        return math.inf
    a, b = a[finite], b[finite]
    if not b.numel():
        return 0.0
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))


class _Wide(fx.Interpreter):
    """Runs a graph in wider dtypes than it was written in."""

    def __init__(self, module: fx.GraphModule, wide: dict[torch.dtype, torch.dtype]) -> None:
        super().__init__(module)
        self.wide = wide

    def widened(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(self.wide[value.dtype]) if value.dtype in self.wide else value
        return self.wide.get(value, value) if isinstance(value, torch.dtype) else value

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.widened(super().placeholder(target, args, kwargs))

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.widened(super().get_attr(target, args, kwargs))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = pytree.tree_map(self.widened, (args, kwargs))
        return super().call_function(target, args, kwargs)


def _run(captured: Captured, inputs: Sequence[Any], wide: dict[torch.dtype, torch.dtype]) -> list[Any]:
    with torch.no_grad():
        return list(_Wide(captured.module(), wide).run(*inputs))


__all__ = ["Reference"]
