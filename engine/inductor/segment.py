"""A segment that PyTorch runs, as a module: its ops, and the code that Inductor made of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import sympy
import torch
from torch import fx, nn

from engine.inductor.code import Code, NotCompiled, compiled
from engine.inductor.sizes import Sizes, TensorInput, evaluated
from engine.runtime.call_path import is_plain

# Shapes of calls that are remembered.
_MOST_KEYS = 1024
# Code for GPUs reads several elements at once from addresses that are multiples of this, in bytes.
_ALIGNMENT = 16


class _Plan(NamedTuple):
    """How a call of certain shapes runs: by the code or not, and the strides of the inputs that it needs otherwise."""

    compiled: bool
    strides: tuple[tuple[int, ...] | None, ...] = ()


class TorchSegment(nn.Module):
    """Ops between engines, which Inductor compiled.

    Calls whose sizes the code is not made for (a dim that may change is 0 or 1, or Inductor took for granted what
    does not hold) run op by op, as does everything that is traced.  An input that lies in memory in another way is
    copied into the order that the code reads.

    Attributes:
        name: of the segment in the report.
        graph_module: the ops; takes tensors and sizes, and returns a tuple of tensors.
        sizes: of its inputs.
        code: what Inductor made of it; None where it did not.
        reason: why there is no code.
    """

    def __init__(self, name: str, graph_module: fx.GraphModule, sizes: Sizes) -> None:
        super().__init__()
        self.name = name
        self.graph_module = graph_module
        self.sizes = sizes
        self.code: Code | None = None
        self.reason = ""
        self._plans: dict[Any, _Plan] = {}

    def compile_ops(self) -> None:
        """Compile the ops for the device that they are on; where Inductor fails, `reason` says why."""
        self.code, self.reason = None, ""
        try:
            self.use(compiled(self.graph_module, self.sizes))
        except NotCompiled as error:
            self.reason = str(error)

    def use(self, code: Code) -> None:
        """Run by this code from now on."""
        self.code, self._plans = code, {}

    def place(self, home: str, device: torch.device) -> None:
        """Move from one kind of device to another device; what was compiled is compiled again."""
        before = self.sizes
        self.sizes = before.on(home, device)
        if self.sizes.devices != before.devices and (self.code is not None or self.reason):
            self.compile_ops()

    def forward(self, *inputs: Any) -> tuple[torch.Tensor, ...]:
        """Run the segment."""
        if self.code is None or not is_plain(inputs):
            return self.graph_module(*inputs)  # type: ignore[no-any-return]
        key = tuple([(x.shape, x.stride()) if isinstance(x, torch.Tensor) else x for x in inputs])
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _MOST_KEYS:
                self._plans = {}
            plan = self._plans[key] = self._plan(inputs)
        if not plan.compiled:
            return self.graph_module(*inputs)  # type: ignore[no-any-return]
        given = [
            _laid_out(value, strides) if isinstance(value, torch.Tensor) else value
            for value, strides in zip(inputs, plan.strides, strict=True)
        ]
        return tuple(self.code.run(given))

    def _plan(self, inputs: Sequence[Any]) -> _Plan:
        assert self.code is not None
        values = self.sizes.values(inputs)
        if values is None:
            return _Plan(False)
        numbers = {symbol: sympy.Integer(value) for symbol, value in values.items()}
        if any(guard.xreplace(numbers) != sympy.true for guard in self.code.guards):
            return _Plan(False)
        strides: list[tuple[int, ...] | None] = []
        for item, value in zip(self.sizes.inputs, inputs, strict=True):
            wanted = None
            if isinstance(item, TensorInput):
                wanted = tuple(evaluated(stride, values) for stride in item.strides)
                # The stride of a single element is never used.
                if all(n == 1 or a == b for n, a, b in zip(value.shape, value.stride(), wanted, strict=True)):
                    wanted = None
            strides.append(wanted)
        return _Plan(True, tuple(strides))

    def __deepcopy__(self, memo: dict[int, Any]) -> TorchSegment:
        """A module with ops of its own; the code, which never changes, is shared."""
        clone = TorchSegment(self.name, copy.deepcopy(self.graph_module, memo), self.sizes)
        memo[id(self)] = clone
        clone.code, clone.reason, clone.training = self.code, self.reason, self.training
        return clone


def _laid_out(value: torch.Tensor, strides: tuple[int, ...] | None) -> torch.Tensor:
    if strides is not None:
        return torch.empty_strided(value.shape, strides, dtype=value.dtype, device=value.device).copy_(value)
    if value.is_conj() or value.is_neg() or (value.is_cuda and value.data_ptr() % _ALIGNMENT):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device).copy_(value)
    return value


__all__ = ["TorchSegment"]
