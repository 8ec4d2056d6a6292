"""Parallelised models, traced as what one rank computes.

``torch.distributed.tensor.parallel.parallelize_module`` makes the parameters of a model DTensors: each rank holds one
*shard*, a plain tensor, and a description of the whole.  An engine computes with the shard.  ``torch.export`` (2.13)
takes no DTensors: it cannot write down how one is made, and miscounts parameters that hold a device mesh.  So while a
model is captured its parameters are the shards, under their own names, and its ``forward`` makes DTensors of them
again; traced below autograd, DTensors turn into what they are made of, ops on shards and functional collectives.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx.experimental import symbolic_shapes
from torch.utils import _pytree as pytree

from engine.errors import CaptureError
from engine.process.replaced_forward import replaced_forward

_MARK = "_engine_makes_dtensors"


class _Sharded(NamedTuple):
    """A parameter or buffer that is a DTensor, where a module holds it."""

    held: dict[str, Any]
    name: str
    whole: Any


def is_sharded(value: Any) -> bool:
    """Whether a value is a DTensor; asks nothing of PyTorch where nobody has loaded what makes them."""
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(value, getattr(loaded, "DTensor", ()))


def local(value: Any) -> Any:
    """The shard of a DTensor on this rank; any other value itself."""
    return value._local_tensor if is_sharded(value) else value


def sharded_tensors(model: Any) -> dict[str, Any]:
    """The DTensors among the parameters and buffers of a model, by name, each name of a tensor that has several."""
    if not isinstance(model, nn.Module):
        return {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tensor for name, tensor in named if is_sharded(tensor)}


@contextmanager
def as_shards(model: Any) -> Iterator[None]:
    """Let a model hold the shards of its DTensors, and make DTensors of what it then holds when it is called.

    It takes and returns what it did before, and is put back afterwards.  A model without DTensors is left alone.

    Raises:
        CaptureError: by a call that returns a DTensor; the model is sharded by ``fully_shard``.
    """
    found = list(_held(model)) if isinstance(model, nn.Module) else []
    if not found:
        yield
        return
    _refuse_gathered(model)
    uneven = _uneven(model)
    shards: dict[int, Any] = {}
    for held, name, whole in found:
        held[name] = shards.setdefault(id(whole), _shard(whole))
    try:
        # What tracing puts in the place of the shards is what DTensors are made of.
        with replaced_forward(model, _made_anew(model.forward, found, type(model).__name__)):
            yield
    except CaptureError as error:
        if not uneven:
            raise
        raise CaptureError(f"{error}\n  {uneven}") from error
    finally:
        for held, name, whole in found:
            held[name] = whole


def _refuse_gathered(model: nn.Module) -> None:
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kind: Any = getattr(fsdp, "FSDPModule", None)
    for name, module in model.named_modules() if kind is not None else ():
        if isinstance(module, kind):
            raise CaptureError(
                f"{name or type(model).__name__!r} is sharded by fully_shard, which gathers weights for each call and "
                "outside of what is traced: call model.unshard() on each such module first, or load the weights into a "
                "model without fully_shard"
            )


def _uneven(model: nn.Module) -> str:
    """What is sharded into parts of different sizes; empty where nothing is."""
    for name, whole in sharded_tensors(model).items():
        for dim, placement in enumerate(whole.placements):
            ranks, axis = whole.device_mesh.size(dim), getattr(placement, "dim", None)
            if axis is not None and whole.shape[axis] % ranks:
                return (
                    f"dim {axis} of {name!r}, of size {whole.shape[axis]}, is sharded over {ranks} ranks, which do not "
                    "divide it: ranks have parts of different sizes. Let the number of ranks divide the heads of "
                    "attention and the widths that are sharded"
                )
    return ""


def _held(model: nn.Module) -> Iterator[_Sharded]:
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            yield from (_Sharded(held, name, value) for name, value in held.items() if is_sharded(value))


def _shard(whole: Any) -> torch.Tensor:
    shard = whole.detach()._local_tensor
    return nn.Parameter(shard, requires_grad=False) if isinstance(whole, nn.Parameter) else shard


def _made_anew(forward: Callable[..., Any], found: list[_Sharded], model: str) -> Callable[..., Any]:
    """A model's ``forward``, run with DTensors made of what takes the place of the shards."""
    from torch.distributed.tensor import DTensor

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        now = [(held, name, held[name]) for held, name, _ in found]
        made: dict[int, Any] = {}
        try:
            for held, name, whole in found:
                if id(whole) not in made:
                    made[id(whole)] = DTensor.from_local(
                        held[name].detach(),
                        whole.device_mesh,
                        whole.placements,
                        run_check=False,
                        shape=whole.shape,
                        stride=whole.stride(),
                    )
                held[name] = made[id(whole)]
            result = forward(*args, **kwargs)
        finally:
            for held, name, value in now:
                held[name] = value
        for path, leaf in pytree.tree_flatten_with_path(result)[0]:
            if is_sharded(leaf):
                what = f"result{pytree.keystr(path)}" if path else "result"
                raise CaptureError(
                    f"the {what} of {model} is a DTensor ({', '.join(map(str, leaf.placements))}), and a compiled "
                    "module returns plain tensors: return result.full_tensor(), or result.to_local() for this rank's "
                    "part; of the styles of parallelize_module, use_local_output=True does that"
                )
        return result

    setattr(run, _MARK, True)
    return run


def holds_shards(model: Any) -> bool:
    """Whether a model is one that :func:`as_shards` holds."""
    return hasattr(getattr(model, "forward", None), _MARK)


def export_shards(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, *, dynamic_shapes: Any
) -> ExportedProgram:
    """``torch.export.export`` of a model that :func:`as_shards` holds: functional ATen ops, composites whole.

    Traced above autograd, as ``torch.export.export`` does it, DTensors would be values of the graph.
    """
    from torch.export._trace import _export

    with whole_composites(), _undecided_sizes():
        return _export(model, args, dict(kwargs or {}), dynamic_shapes, strict=False, pre_dispatch=False)


@contextmanager
def _undecided_sizes() -> Iterator[None]:
    """Let DTensors ask of sizes only what holds for all of them, where they can go on without an answer.

    They ask of every dim whether the device mesh divides it, also of those that are not sharded, by ``guard_or_false``
    and ``guard_or_true``, whose answer for what is not known is in their names; for the sizes of an example PyTorch
    notes a guard instead, and a batch would have to be even.
    """
    replaced = [
        (module, name, vars(module)[name])
        for path, module in list(sys.modules.items())
        if path == symbolic_shapes.__name__ or path.startswith("torch.distributed.tensor.")
        for name in _CERTAIN
        if name in vars(module)
    ]
    for module, name, before in replaced:
        setattr(module, name, _asked_by_dtensors(before, _CERTAIN[name]))
    try:
        yield
    finally:
        for module, name, before in replaced:
            setattr(module, name, before)


# What can be said of a question without a guard.
_CERTAIN: dict[str, Callable[[Any], bool]] = {
    "guard_or_false": symbolic_shapes.statically_known_true,
    "guard_or_true": lambda question: not symbolic_shapes.statically_known_false(question),
}
_DTENSORS = os.path.join(os.path.dirname(torch.__file__), "distributed", "tensor", "")


def _asked_by_dtensors(others: Callable[..., bool], certain: Callable[[Any], bool]) -> Callable[..., bool]:
    @functools.wraps(others)
    def ask(question: Any) -> bool:
        asker = sys._getframe(1).f_code.co_filename
        return certain(question) if asker.startswith(_DTENSORS) else others(question)

    return ask


@contextmanager
def whole_composites() -> Iterator[None]:
    """Let tracing record composite ops instead of what they are made of, where this PyTorch offers it.

    A composite of DTensors is taken apart, because DTensors only know how its parts are computed on several ranks.
    """
    try:
        from torch.export.exported_program import (
            _override_composite_implicit_decomp,
            _split_decomp_table_to_cia_and_python_decomp,
        )
    except ImportError:
        yield
        return
    composites, _ = _split_decomp_table_to_cia_and_python_decomp({})
    with _taken_apart_by_dtensors(list(composites)), _override_composite_implicit_decomp(composites):
        yield


@contextmanager
def _taken_apart_by_dtensors(composites: Iterable[Any]) -> Iterator[None]:
    """Let DTensors compute composites by their parts at once.

    Otherwise they look for the placements of a composite by tracing its parts for every choice of placements, half a
    second for a linear layer, find none, and fail because composites are not taken apart.
    """
    tensor = sys.modules.get("torch.distributed.tensor")
    if tensor is None:
        yield
        return
    handlers = tensor.DTensor._op_dispatcher._custom_op_handlers
    added = [op for op in composites if op not in handlers]
    handlers.update(dict.fromkeys(added, _by_parts))
    try:
        yield
    finally:
        for op in added:
            handlers.pop(op, None)


def _by_parts(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return op._op_dk(DispatchKey.CompositeImplicitAutograd, *args, **kwargs)


__all__ = ["as_shards", "export_shards", "holds_shards", "is_sharded", "local", "sharded_tensors", "whole_composites"]
