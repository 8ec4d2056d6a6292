"""The op ``engine::execute``: a module's engine as one node of a graph that PyTorch traces.

Tracers (``torch.export``, ``torch.compile``, ``make_fx``) see one opaque call whose output shapes
come from the recorded ones.  The op finds its module by name in this process; the module must
live as long as the traced graph is used.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from engine.errors import InputError, RuntimeUnavailable
from engine.runtime.boundary import check_count, check_kinds

if TYPE_CHECKING:
    from engine.runtime.module import TorchTensorRTModule

_MODULES: weakref.WeakValueDictionary[str, TorchTensorRTModule] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()
_LIBRARY = torch.library.Library("engine", "FRAGMENT")
_LIBRARY.define("execute(Tensor[] tensors, SymInt[] sizes, int[] size_positions, str module) -> Tensor[]")


def register(module: TorchTensorRTModule) -> str:
    """Make a module known to the op; returns the name the op finds it by."""
    _register_fake()
    handle = f"{module.name or 'engine'}#{next(_NUMBERS)}"
    _MODULES[handle] = module
    return handle


def execute(inputs: Sequence[Any], names: Sequence[str], handle: str) -> list[torch.Tensor]:
    """Call the op on inputs in binding order; symbolic and plain ints may stand among the tensors."""
    check_count(inputs, names)
    check_kinds(inputs, names)
    tensors, sizes, positions = [], [], []
    for position, value in enumerate(inputs):
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        elif isinstance(value, int | torch.SymInt) and not isinstance(value, bool):
            sizes.append(value)
            positions.append(position)
        elif isinstance(value, bool | float):
            tensors.append(torch.tensor(value, device="cpu"))
        else:
            raise InputError(f"input {names[position]!r} is a {type(value).__name__}, the engine takes a tensor")
    return torch.ops.engine.execute(tensors, sizes, positions, handle)  # type: ignore[no-any-return]


def _module(handle: str) -> TorchTensorRTModule:
    module = _MODULES.get(handle)
    if module is None:
        raise RuntimeUnavailable(
            f"the compiled module {handle!r} that this graph calls is gone: keep the module that was exported or "
            "traced alive in this process, or compile again"
        )
    return module


def _merge(tensors: Sequence[Any], sizes: Sequence[Any], positions: Sequence[int]) -> list[Any]:
    merged = list(tensors)
    for position, size in zip(positions, sizes, strict=True):
        merged.insert(position, size)
    return merged


def _execute(tensors: Any, sizes: Any, size_positions: Any, module: str) -> list[torch.Tensor]:
    results = _module(module).run_engine(_merge(tensors, sizes, size_positions))
    # The op's schema promises fresh outputs; an engine may update an input in place and return it.
    given = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    return [result.clone() if result.untyped_storage().data_ptr() in given else result for result in results]


def _fake(tensors: Any, sizes: Any, size_positions: Any, module: str) -> list[torch.Tensor]:
    context = torch.library.get_ctx()
    return _module(module).fake_outputs(_merge(tensors, sizes, size_positions), context.new_dynamic_size)


_LIBRARY.impl("execute", _execute, "CompositeExplicitAutograd")


@functools.cache
def _register_fake() -> None:
    """Tell tracers the shapes of outputs; not on import, as PyTorch looks through all modules for the caller's."""
    torch.library.register_fake("engine::execute", _fake, lib=_LIBRARY)
