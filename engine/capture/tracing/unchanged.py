"""A model is not changed by what runs its code: what it held before is put back.

``torch.export`` runs ``forward`` on fake tensors.  What that leaves in attributes, caches and counters would make later
calls of the model return fake tensors, and would be taken for a constant when it is traced once more.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import random
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from engine.capture.tracing.module_caches import cleared_of_fakes

_ATOMS = (
    type(None), bool, int, float, complex, str, bytes, torch.Tensor, torch.dtype, torch.device, torch.Size,
    types.ModuleType, types.BuiltinFunctionType, type,
)  # fmt: skip
# Objects of these packages are not looked into: they are no part of a model.
_PLAIN = {"argparse", "collections", "functools", "random", "types"}
_OTHERS = (sys.stdlib_module_names - _PLAIN) | {"numpy", "sympy", "torch"}
_OURS_IN_TORCH = ("torch.distributions.", "torch.nn.")
# Containers that have no attributes, which is most of what a module holds.
_BARE = frozenset({dict, list, set, tuple, frozenset, collections.OrderedDict, collections.deque})
_ABSENT = object()


@contextmanager
def unchanged(model: Any, *, values: bool = False) -> Iterator[None]:
    """Give a model back what it held, and the process its random numbers and modes, when the body has run.

    Put back are the attributes of its modules and of objects that they hold, by identity; what is in their lists,
    dicts, sets and deques; variables of closures, such as hooks; and attributes of the classes of its modules.  Of
    what the model's code keeps elsewhere (global variables, ``functools.lru_cache``), fake tensors are taken out.

    Args:
        values: the model computes: put back the values of all tensors that are no parameters; else only of those of one
            element that were written to.
    """
    held = _Held(values)
    if isinstance(model, nn.Module):
        held.visit(model)
    with ExitStack() as stack:
        stack.callback(held.restore)
        stack.enter_context(cleared_of_fakes(held.classes))
        stack.enter_context(same_modes())
        yield


@contextmanager
def same_modes() -> Iterator[None]:
    """Leave the process the random numbers and the default dtype and grad mode that it had."""
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            stack.callback(numpy.random.set_state, numpy.random.get_state())
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        stack.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        yield


class _Held:
    """What a model holds, as it was when it was visited."""

    def __init__(self, values: bool) -> None:
        self._values = values
        self.classes: dict[type, None] = {}
        self._restorers: list[Callable[[], None]] = []
        # Kept alive, so that nothing else gets the id of an object that was seen.
        self._seen: dict[int, Any] = {}

    def visit(self, root: Any) -> None:
        """Note what an object and everything that it leads to hold."""
        stack = [root]
        while stack:
            value = stack.pop()
            if type(value) is torch.Tensor and id(value) not in self._seen:
                self._note_tensor(value)
            if not issubclass(type(value), _ATOMS) and id(value) not in self._seen:
                self._seen[id(value)] = value
                stack.extend(self._note(value))

    def restore(self) -> None:
        """Put everything back."""
        for restore in self._restorers:
            restore()

    def _note_tensor(self, value: torch.Tensor) -> None:
        if self._values:
            restore = functools.partial(_restore_values, value, value.clone())
        elif _may_be_computed(value):
            restore = functools.partial(_restore_written, value, value.clone(), value._version)
        else:
            return
        self._seen[id(value)] = value
        self._restorers.append(restore)

    def _note(self, value: Any) -> Iterator[Any]:
        # Not ``isinstance``, which asks proxies for what they stand for.
        kind = type(value)
        if issubclass(kind, dict):
            yield from self._note_dict(value)
        elif issubclass(kind, list):
            self._note_items(value, list, list.extend)
            yield from list.__iter__(value)
        elif issubclass(kind, set):
            self._note_items(value, set, set.update)
            yield from set.__iter__(value)
        elif issubclass(kind, collections.deque):
            self._note_items(value, collections.deque, collections.deque.extend)
            yield from collections.deque.__iter__(value)
        elif issubclass(kind, tuple | frozenset):
            yield from value
        elif issubclass(kind, functools.partial):
            yield from (value.func, value.args, value.keywords)
        elif issubclass(kind, types.MethodType):
            yield from (value.__self__, value.__func__)
        elif issubclass(kind, types.FunctionType):
            yield from self._note_function(value)
        elif issubclass(kind, random.Random):
            self._restorers.append(functools.partial(value.setstate, value.getstate()))
        elif issubclass(kind, torch.Generator):
            self._restorers.append(functools.partial(value.set_state, value.get_state()))
        if kind in _BARE:
            return
        package = kind.__module__.partition(".")[0]
        if package not in _OTHERS or issubclass(kind, nn.Module) or kind.__module__.startswith(_OURS_IN_TORCH):
            yield from self._note_object(value)

    def _note_dict(self, value: dict[Any, Any]) -> Iterator[Any]:
        # The methods of a class of the user's may do more than to store.
        base: type[dict[Any, Any]] = collections.OrderedDict if isinstance(value, collections.OrderedDict) else dict
        before = list(base.items(value))

        def restore() -> None:
            if not before and not value:
                return
            now = list(base.items(value))
            pairs = zip(now, before, strict=False)
            if len(now) != len(before) or any(a is not c or b is not d for (a, b), (c, d) in pairs):
                base.clear(value)
                for key, item in before:
                    base.__setitem__(value, key, item)

        self._restorers.append(restore)
        yield from (item for _, item in before)

    def _note_items(self, value: Any, base: Any, fill: Callable[[Any, Any], None]) -> None:
        before = list(base.__iter__(value))

        def restore() -> None:
            now = list(base.__iter__(value))
            if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
                base.clear(value)
                fill(value, before)

        self._restorers.append(restore)

    def _note_function(self, function: types.FunctionType) -> Iterator[Any]:
        for cell in function.__closure__ or ():
            if id(cell) not in self._seen:
                self._seen[id(cell)] = cell
                content = _content(cell)
                self._restorers.append(functools.partial(_restore_cell, cell, content))
                yield content
        yield from (function.__defaults__, function.__kwdefaults__, function.__dict__)

    def _note_object(self, value: Any) -> Iterator[Any]:
        with contextlib.suppress(AttributeError):
            yield object.__getattribute__(value, "__dict__")
        for cls in type(value).__mro__:
            names = cls.__dict__.get("__slots__", ())
            for name in (names,) if isinstance(names, str) else names:
                descriptor = cls.__dict__.get(name)
                if isinstance(descriptor, types.MemberDescriptorType):
                    content = _slot(descriptor, value)
                    self._restorers.append(functools.partial(_restore_slot, descriptor, value, content))
                    yield content
        if isinstance(value, nn.Module):
            yield from self._note_class(type(value))

    def _note_class(self, cls: type) -> Iterator[Any]:
        for base in cls.__mro__:
            if base in self.classes or base.__module__.partition(".")[0] in ("builtins", "torch"):
                continue
            self.classes[base] = None
            before = {name: item for name, item in vars(base).items() if not _is_code(item)}
            self._restorers.append(functools.partial(_restore_class, base, before))
            yield from before.values()


def _is_code(value: Any) -> bool:
    return isinstance(value, types.FunctionType | types.GetSetDescriptorType | types.MemberDescriptorType)


def _restore_class(cls: type, before: dict[str, Any]) -> None:
    now = {name: item for name, item in vars(cls).items() if not _is_code(item)}
    for name in [*now, *before]:
        was = before.get(name, _ABSENT)
        # What Python keeps for itself, and what was replaced by something that is made once, stays.
        if now.get(name, _ABSENT) is was or name.startswith("__"):
            continue
        if was is _ABSENT:
            type.__delattr__(cls, name)
        else:
            type.__setattr__(cls, name, was)


def _may_be_computed(tensor: torch.Tensor) -> bool:
    """Whether tracing may write to a tensor: it computes with numbers that objects hold as it goes (PyTorch 2.13)."""
    return tensor.numel() == 1 and tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_inference())


def _restore_written(tensor: torch.Tensor, values: torch.Tensor, version: int) -> None:
    if tensor._version != version:
        _restore_values(tensor, values)


def _restore_values(tensor: torch.Tensor, values: torch.Tensor) -> None:
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        tensor.copy_(values)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return _ABSENT


def _restore_cell(cell: types.CellType, content: Any) -> None:
    if _content(cell) is content:
        return
    if content is _ABSENT:
        del cell.cell_contents
    else:
        cell.cell_contents = content


def _slot(descriptor: types.MemberDescriptorType, value: Any) -> Any:
    try:
        return descriptor.__get__(value)
    except AttributeError:
        return _ABSENT


def _restore_slot(descriptor: types.MemberDescriptorType, value: Any, content: Any) -> None:
    if _slot(descriptor, value) is content:
        return
    if content is _ABSENT:
        descriptor.__delete__(value)
    else:
        descriptor.__set__(value, content)


__all__ = ["same_modes", "unchanged"]
