"""How a compiled module is called, as JSON: the pytrees of its arguments and results, and what each leaf is.

Classes are found by name among those that PyTorch knows as containers.  A file makes nothing be imported,
except from the libraries of models listed in ``_LIBRARIES``.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils import _pytree as pytree

from engine.capture.guards import Guard
from engine.capture.inputs import Range
from engine.capture.pytrees import register
from engine.capture.signature import Argument, Signature, _children, _is_leaf
from engine.errors import FileError, SaveError
from engine.files.values import read_value, write_value
from engine.runtime.expressions import (
    Symbols,
    read_relation,
    read_size,
    read_symbols,
    write_relation,
    write_size,
)
from engine.runtime.metadata import read_dtype, write_dtype

_LIBRARIES = frozenset({"diffusers", "torch", "torchvision", "transformers"})
_BUILTINS: dict[str, Any] = {
    **{f"builtins.{cls.__name__}": cls for cls in (bool, dict, float, int, list, set, str, tuple)},
    **{f"collections.{name}": getattr(collections, name) for name in ("OrderedDict", "defaultdict", "deque")},
    "collections.namedtuple": collections.namedtuple,
}
# Contexts of transformers' caches name classes, which it imports and calls: only these are let through.
_NAMED_CLASS = re.compile(r"transformers\.(cache_utils\.\w+|models\.[\w.]+\.\w*Cache\w*|[\w.]*\w*Cache\w*)")
_CONTAINERS = frozenset({"builtins.list", "builtins.dict", "builtins.tuple", "builtins.set", "collections.OrderedDict"})


def write_signature(signature: Signature) -> dict[str, Any]:
    """A signature as JSON.

    Raises:
        SaveError: a container, or a constant among the arguments, that a file cannot hold.
    """
    symbols: Symbols = {}
    data = {
        "in": write_spec(signature.in_spec),
        "out": write_spec(signature.out_spec),
        "arguments": [_write_argument(argument, symbols) for argument in signature.arguments],
        "ranges": [[write_size(symbol, symbols), *range_] for symbol, range_ in signature.ranges.items()],
        "parameters": list(signature.parameters),
        "defaults": dict(_written_defaults(signature.defaults)),
        "guards": [[write_relation(g.relation, symbols), g.source, g.asked] for g in signature.guards],
    }
    return {**data, "symbols": symbols}


def _written_defaults(defaults: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The defaults that have a JSON form: a call that leaves out one of the others has to say what it means."""
    for name, value in defaults.items():
        with contextlib.suppress(SaveError):
            yield name, write_value(value)


def read_signature(data: Any) -> Signature:
    """The signature of what `write_signature` gave.

    Raises:
        FileError: it is damaged, or needs a class that is not there.
    """
    try:
        symbols = read_symbols(data["symbols"])
        ranges = {read_size(name, symbols): Range(*map(int, sizes)) for name, *sizes in data["ranges"]}
        return Signature(
            read_spec(data["in"]),
            read_spec(data["out"]),
            tuple(_read_argument(argument, symbols) for argument in data["arguments"]),
            ranges,  # type: ignore[arg-type]
            tuple(map(str, data["parameters"])),
            {str(name): read_value(value) for name, value in data["defaults"].items()},
            # Files of earlier versions have none.
            tuple(
                Guard(read_relation(relation, symbols), str(source), bool(asked))
                for relation, source, asked in data.get("guards", ())
            ),
        )
    except FileError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, AssertionError) as error:
        raise FileError(f"the signature is damaged: {type(error).__name__}: {error}") from None


def _write_argument(argument: Argument, symbols: Symbols) -> dict[str, Any]:
    data: dict[str, Any] = {"name": argument.name}
    if argument.placeholder is not None:
        data["placeholder"] = argument.placeholder
    if argument.shape is not None:
        data["shape"] = [write_size(size, symbols) for size in argument.shape]
    if argument.dtype is not None:
        data["dtype"] = write_dtype(argument.dtype)
    if argument.device is not None:
        data["device"] = argument.device
    if argument.symbol is not None:
        data["symbol"] = write_size(argument.symbol, symbols)
    if argument.is_constant:
        try:
            data["value"] = write_value(argument.value)
        except SaveError as error:
            raise SaveError(f"{argument} is a constant of the compiled graph that cannot be saved: {error}") from None
    return data


def _read_argument(data: Mapping[str, Any], symbols: Mapping[str, Any]) -> Argument:
    return Argument(
        str(data["name"]),
        data.get("placeholder"),
        tuple(read_size(size, symbols) for size in data["shape"]) if "shape" in data else None,
        read_dtype(data["dtype"]) if "dtype" in data else None,
        data.get("device"),
        read_size(data["symbol"], symbols) if "symbol" in data else None,
        read_value(data.get("value")),
    )


def write_spec(spec: pytree.TreeSpec) -> Any:
    """A pytree's structure as JSON; None is a leaf.

    Raises:
        SaveError: it has a container whose context is no plain value.
    """
    if _is_leaf(spec):
        return None
    try:
        context = write_value(spec.context, _write_class)
    except SaveError as error:
        raise SaveError(f"a {_class_name(spec.type)} among inputs or results cannot be saved: {error}") from None
    _check_context(context, SaveError)
    return {
        "type": _class_name(spec.type),
        "context": context,
        "children": [write_spec(child) for child in _children(spec)],
    }


def read_spec(data: Any) -> pytree.TreeSpec:
    """The structure that `write_spec` wrote.

    Raises:
        FileError: it is damaged, or has a class that is not there.
    """
    if data is None:
        return pytree.tree_structure(0)
    found = _find_container(data["type"])
    context = data["context"]
    _check_context(context, FileError)
    return pytree.TreeSpec(found, read_value(context, _read_class), [read_spec(child) for child in data["children"]])


def _write_class(value: Any) -> Any:
    return {"class": _class_name(value)} if isinstance(value, type) else NotImplemented


def _read_class(data: Mapping[str, Any]) -> Any:
    if "class" not in data:
        return NotImplemented
    name = data["class"]
    if name in _BUILTINS:
        return _BUILTINS[name]
    found = _find_class(name)
    if not (issubclass(found, tuple) and hasattr(found, "_fields")):
        raise FileError(f"{name} stands where a named tuple is expected")
    return found


def _class_name(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _find_container(name: Any) -> Any:
    if name in _BUILTINS:
        return _BUILTINS[name]
    found = _find_class(name)
    if found not in pytree.SUPPORTED_NODES and not register(found):
        raise FileError(
            f"{name} is no container that PyTorch knows: register it with torch.utils._pytree.register_pytree_node "
            "before the file is loaded"
        )
    return found


def _find_class(name: Any) -> type:
    parts = name.split(".") if isinstance(name, str) else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise FileError(f"{str(name)[:80]!r} is not the name of a class")
    for end in range(len(parts) - 1, 0, -1):
        module = _module(".".join(parts[:end]), parts[0])
        found: Any = module
        for part in parts[end:]:
            found = getattr(found, part, None)
        if isinstance(found, type):
            return found
    module_name = ".".join(parts[:-1])
    raise FileError(
        f"the model takes or returns a {name}, which is not known here: import {module_name} before the file is loaded"
    )


def _module(name: str, package: str) -> Any:
    if name not in sys.modules and package in _LIBRARIES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not (error.name or name).startswith(package):
                raise FileError(f"the model takes or returns a class of {name}, which needs {error.name}") from None
        except Exception as error:
            raise FileError(
                f"the model takes or returns a class of {name}, which cannot be imported: {error}"
            ) from error
    return sys.modules.get(name)


def _check_context(context: Any, error: type[Exception]) -> None:
    """Refuse contexts that make transformers import and call something by name."""
    if isinstance(context, list):
        for item in context:
            _check_context(item, error)
    elif isinstance(context, dict):
        for kind, content in context.items():
            if kind == "dict" and isinstance(content, list):
                pairs = [pair for pair in content if isinstance(pair, list) and len(pair) == 2]
                named = [value for key, value in pairs if key == "p"]
                for value in named if any(key == "_t" for key, _ in pairs) else ():
                    if value not in _CONTAINERS and not (isinstance(value, str) and _NAMED_CLASS.fullmatch(value)):
                        raise error(f"a container's context names {str(value)[:80]!r}, which a file may not name")
            _check_context(content, error)


def describe_spec(spec: pytree.TreeSpec) -> str:
    """A structure in one line, for people."""
    leaf = pytree.tree_structure(0)
    if spec == leaf:
        return "*"
    inner = ", ".join(describe_spec(child) for child in _children(spec))
    return f"{spec.type.__name__}({inner})"


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, by name, not copied."""
    return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}


__all__ = ["describe_spec", "fields_of", "read_signature", "read_spec", "write_signature", "write_spec"]
