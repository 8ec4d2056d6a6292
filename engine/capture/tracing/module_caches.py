"""Fake tensors that tracing leaves outside a model: in global variables, and in ``functools.lru_cache``."""

from __future__ import annotations

import functools
import gc
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch._subclasses.fake_tensor import FakeTensor

_CACHE = type(functools.lru_cache(lambda: None))
_CONTAINERS = (dict, list, set)
_ATOMS = frozenset({type(None), bool, int, float, str, bytes, type, types.FunctionType, types.BuiltinFunctionType})
_METHODS = (classmethod, staticmethod)
_NAMING_THEIR_MODULE = (types.FunctionType, _CACHE, type)
_OURS = __name__.partition(".")[0]
_INSTALLED = tuple(str(Path(sysconfig.get_path(name))) for name in ("stdlib", "purelib", "platlib"))
# How deep fake tensors are looked for in containers.
_DEPTH = 4


@contextmanager
def cleared_of_fakes(classes: Iterable[type]) -> Iterator[None]:
    """Take fake tensors out of the global variables of the code of some classes, when the body has run.

    A container gets back what was in it, a variable its value, and a cache of ``functools`` is emptied, which only
    makes it compute again.  Modules are looked at that define a class or that one of these uses, as far as they
    belong to the packages of the classes, or are not installed packages.  The compiler's own are not: they hold no
    values of models, and hundreds of them would be looked through for each model where it is not installed.
    """
    classes = list(classes)
    modules = _modules(classes)
    before = [(module, dict(vars(module))) for module in modules]
    held = [
        (value, _base(value).copy(value))
        for _, variables in before
        for value in variables.values()
        if issubclass(type(value), _CONTAINERS) and not _has_fakes(value)
    ]
    try:
        yield
    finally:
        for value, copy in held:
            if _has_fakes(value):
                _base(value).clear(value)
                list.extend(value, copy) if isinstance(value, list) else _base(value).update(value, copy)
        for owner in (*modules, *classes):
            for value in list(vars(owner).values()):
                cache = getattr(value, "__func__", None) if isinstance(value, _METHODS) else value
                if type(cache) is _CACHE and any(map(_has_fakes, gc.get_referents(cache))):
                    cache.cache_clear()
        for module, variables in before:
            for name, value in list(vars(module).items()):
                if isinstance(value, FakeTensor) and value is not variables.get(name):
                    if name in variables:
                        setattr(module, name, variables[name])
                    else:
                        delattr(module, name)


def _modules(classes: Iterable[type]) -> list[types.ModuleType]:
    """The modules of classes, and those whose functions and classes they use."""
    found: dict[str, types.ModuleType] = {}
    names = [cls.__module__ for cls in classes]
    packages = {name.partition(".")[0] for name in names}
    while names:
        name = names.pop()
        module = sys.modules.get(name)
        if name in found or not isinstance(module, types.ModuleType):
            continue
        package = name.partition(".")[0]
        if package == _OURS or (package not in packages and not _is_users(module)):
            continue
        found[name] = module
        for value in list(vars(module).values()):
            if type(value) is types.ModuleType:
                names.append(value.__name__)
            elif issubclass(type(value), _NAMING_THEIR_MODULE):
                names.append(str(getattr(value, "__module__", "")))
    return list(found.values())


def _is_users(module: types.ModuleType) -> bool:
    file = vars(module).get("__file__")
    return isinstance(file, str) and not file.startswith(_INSTALLED)


def _base(container: Any) -> Any:
    """The class whose methods store and do nothing else: some that libraries derive load what they are asked for."""
    return next(base for base in _CONTAINERS if isinstance(container, base))


def _has_fakes(value: Any, depth: int = _DEPTH) -> bool:
    kind = type(value)
    if issubclass(kind, FakeTensor):
        return True
    if not depth:
        return False
    if issubclass(kind, dict):
        items = list(dict.values(value))
    elif issubclass(kind, list | tuple | set):
        items = list(value)
    else:
        return False
    # Names, numbers and functions are most of what modules hold.
    return any(type(item) not in _ATOMS and _has_fakes(item, depth - 1) for item in items)


__all__ = ["cleared_of_fakes"]
