"""Primitives of PyTorch (``prims.*``) by the ATen ops behind them, which rules know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import fx
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode


@contextmanager
def primitives_by_aten(module: fx.GraphModule) -> Iterator[None]:
    """Let a graph and the graphs inside it call the ATen ops behind primitives, while they are traced anew.

    ``prims.transpose`` returns a view, and PyTorch makes no graph functional that has ops of that kind which are not
    ATen's.
    """
    changed: list[tuple[fx.Node, Any]] = []
    for graph in (each.graph for each in module.modules() if isinstance(each, fx.GraphModule)):
        for node in graph.nodes:
            function = by_aten(node.target)
            if function is not None:
                changed.append((node, node.target))
                node.target = _throughout(function)
    try:
        yield
    finally:
        for node, target in changed:
            node.target = target


def by_aten(op: Any) -> Callable[..., Any] | None:
    """What computes a primitive by ATen ops; None for other ops."""
    return getattr(op, "impl_aten", None) if isinstance(op, OpOverload) and op.namespace == "prims" else None


class _ByAten(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function = by_aten(func)
        if function is None:
            return func(*args, **(kwargs or {}))
        with self:
            return function(*args, **(kwargs or {}))


def _throughout(function: Callable[..., Any]) -> Callable[..., Any]:
    """Some primitives are computed by other ones."""

    @wraps(function)
    def computed(*args: Any, **kwargs: Any) -> Any:
        with _ByAten():
            return function(*args, **kwargs)

    return computed


__all__ = ["by_aten", "primitives_by_aten"]
