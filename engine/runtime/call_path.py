"""The way that calls of a module take: by a CUDA graph, straight to the loaded engine, or with every input checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from engine.runtime.cuda_graphs.cache import GraphCache

_PLAIN = frozenset({torch.Tensor, nn.Parameter, int, float, bool})
_modes_active: Callable[[], int] = torch._C._len_torch_dispatch_stack
_is_tracing: Callable[[], bool] = torch._C._is_tracing
# Hooks of all modules of the process.
_pre_hooks, _hooks = nn.modules.module._global_forward_pre_hooks, nn.modules.module._global_forward_hooks


def has_hooks(module: nn.Module) -> bool:
    """Whether something else than ``forward`` has to happen in a call of a module, or it is traced."""
    return bool(
        torch.compiler.is_dynamo_compiling()
        or module._forward_pre_hooks
        or module._forward_hooks
        or _pre_hooks
        or _hooks
        or _modes_active()
        or _is_tracing()
    )


def is_plain(inputs: Sequence[Any]) -> bool:
    """Whether a call with these inputs runs, and nobody traces it."""
    if torch.compiler.is_compiling() or _modes_active() or _is_tracing():
        return False
    for value in inputs:  # noqa: SIM110 - a generator would cost as much as all the rest
        if type(value) not in _PLAIN:
            return False
    return True


def _never(inputs: Sequence[Any]) -> None:
    """No call is known to be simple."""


@dataclass(frozen=True, slots=True)
class CallPath:
    """What a call of a module does, decided once and not in each call.

    A path does not change.  When an engine is loaded, or options, devices or CUDA graphs change, the module gets a
    new one.

    Attributes:
        run: returns the result of a call with plain inputs (`is_plain`).
        fast: returns the result of a call that is like one before and only has to be queued; returns None, and has done
            nothing, for any other call.
    """

    run: Callable[[Sequence[Any]], Any]
    fast: Callable[[Sequence[Any]], Any] = _never

    @classmethod
    def recorded(cls, graphs: GraphCache) -> CallPath:
        """Calls are recorded as CUDA graphs; the graph that was replayed last is tried first."""
        return cls(run=graphs, fast=graphs.replay_last)

    @classmethod
    def direct(cls, run: Callable[[Sequence[Any]], Any], engine: Any, *, single: bool) -> CallPath:
        """Calls go to an engine.

        Args:
            run: finds the engine for the inputs, and runs it.
            engine: the only engine that is loaded; its ``try_run`` runs inputs that need no preparation.
            single: the result is the engine's one output, instead of a tuple.
        """
        try_run = engine.try_run

        def one(inputs: Sequence[Any]) -> Any:
            outputs = try_run(inputs)
            return None if outputs is None else outputs[0]

        def several(inputs: Sequence[Any]) -> Any:
            outputs = try_run(inputs)
            return None if outputs is None else tuple(outputs)

        return cls(run=run, fast=one if single else several)


__all__ = ["CallPath", "has_hooks", "is_plain"]
