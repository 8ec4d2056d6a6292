"""Containers that PyTorch does not know yet: registered when a model takes or returns one."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
import traceback
from typing import Any

import torch
from torch.utils import _pytree as pytree

from engine.capture.inputs import Input

_UNKNOWN = (
    # "Found <class 'm.C'> in output, which is not a known type"
    re.compile(r"Found <class '([\w.]+)'> in output"),
    # "Unsupported input type <class 'm.C'>"
    re.compile(r"Unsupported input type <class '([\w.]+)'>"),
    re.compile(r"is of type <class '([\w.]+)'>"),
)


def register_from_error(error: BaseException) -> bool:
    """Register the class that torch.export's error says it does not know; False where that is not possible."""
    if isinstance(error, TypeError):
        # torch 2.11 looks results up in a dict of types: one that cannot be hashed is not named in full.
        for frame, _ in traceback.walk_tb(error.__traceback__):
            found = type(frame.f_locals.get("cls"))
            if frame.f_code.co_name == "is_opaque_type" and dataclasses.is_dataclass(found):
                return register(found)
    message = str(error)
    for pattern in _UNKNOWN:
        match = pattern.search(message)
        if match:
            module, _, name = match[1].rpartition(".")
            cls = getattr(sys.modules.get(module), name, None)
            return isinstance(cls, type) and register(cls)
    return False


def register_inputs(values: Any) -> None:
    """Register the containers among the arguments of a call, and those inside, where that is possible."""
    known = torch.Tensor | int | float | bool | str | complex | Input | None
    found = {type(leaf) for leaf in pytree.tree_leaves(values) if not isinstance(leaf, known)}
    # Of what is registered now the leaves are others. Each class is registered once, so that this ends.
    if sum(map(register, sorted(found, key=str))):
        register_inputs(values)


def register(cls: type) -> bool:
    """Make a dataclass, or a key-value cache of transformers, a pytree; False where that is not possible."""
    if cls in pytree.SUPPORTED_NODES:
        return False
    if cls.__module__.partition(".")[0] == "transformers":
        return _register_cache(cls)
    if dataclasses.is_dataclass(cls):
        torch.export.register_dataclass(cls, serialized_type_name=f"{cls.__module__}.{cls.__qualname__}")
        return True
    return False


def _register_cache(cls: type) -> bool:
    """Through the functions that transformers has for it; which ones depends on its version."""
    if cls.__name__ == "DynamicCache":
        function = _find("transformers.integrations.executorch", "register_dynamic_cache_export_support")
        arguments: tuple[Any, ...] = ()
    else:
        function = _find("transformers.exporters.exporter_dynamo", "register_pytree_node")
        arguments = (cls,)
    if function is None:
        return False
    function(*arguments)
    return cls in pytree.SUPPORTED_NODES


def _find(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def plain(value: Any) -> Any:
    """The output of a graph in plain containers: fx keeps its own immutable ones."""
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else tuple(map(plain, value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value
