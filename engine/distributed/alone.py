"""Models that exchange tensors, run by one rank alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type

from engine.distributed.collectives import collectives, is_collective


@contextmanager
def alone(graph: fx.Graph) -> Iterator[None]:
    """Let collectives give what this rank holds, repeated or cut to the shape of their result.

    That is what two ways to write one model can be compared by, at sizes that another rank may not ask about: a
    collective that only some ranks call waits for ever.

    Args:
        graph: of the model; without collectives in it nothing is changed.
    """
    if next(collectives(graph), None) is None:
        yield
        return
    with _Alone():
        yield


class _Alone(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(map(is_traceable_wrapper_subclass_type, types)):
            # DTensors and results that are waited for are made of plain tensors, whose ops come here again.
            return NotImplemented
        kwargs = kwargs or {}
        return _stand_in(func, args, kwargs) if is_collective(func) else func(*args, **kwargs)


def _stand_in(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    held = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if op._schema.is_mutable or op._opname == "wait_tensor":
        return args[0]
    meta = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    shapes, spec = pytree.tree_flatten(op(*meta[0], **meta[1]))
    made = [_filled(shape, held[min(index, len(held) - 1)]) for index, shape in enumerate(shapes)]
    return pytree.tree_unflatten(made, spec)


def _filled(like: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    flat = source.reshape(-1)
    count = like.numel()
    if not flat.numel():
        return source.new_zeros(like.shape, dtype=like.dtype)
    return flat.repeat(-(-count // flat.numel()))[:count].reshape(like.shape).to(like.dtype)


__all__ = ["alone"]
