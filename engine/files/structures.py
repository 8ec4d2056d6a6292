"""How a saved module is called, as JSON: its arguments, and the containers of its arguments and results as pytrees.

A leaf is null, and a container is an object with its class, its context and its children.  Which classes files may
name is said in `engine.files.containers`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils import _pytree as pytree

from engine.capture.inputs import Range
from engine.capture.signature import Argument, Signature, _children, _is_leaf
from engine.capture.sizes.guards import Guard
from engine.errors import FileError, SaveError
from engine.files import containers
from engine.files.values import read_value, write_value
from engine.runtime.records.specs import read_dtype, write_dtype
from engine.runtime.size_text import (
    Symbols,
    read_relation,
    read_size,
    read_symbols,
    write_relation,
    write_size,
)

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

    Everything else in it is read and checked before classes of libraries are imported or made known to PyTorch.

    Raises:
        FileError: it is damaged, or needs a class that is not there.
    """
    try:
        symbols = read_symbols(data["symbols"])
        ranges = {read_size(name, symbols): _range(sizes) for name, *sizes in data["ranges"]}
        arguments = tuple(_read_argument(argument, symbols) for argument in data["arguments"])
        parameters = tuple(_text(name) for name in data["parameters"])
        defaults = {_text(name): read_value(value) for name, value in data["defaults"].items()}
        guards = tuple(
            Guard(read_relation(relation, symbols), _text(source), bool(asked))
            # Files of earlier versions have none.
            for relation, source, asked in data.get("guards", ())
        )
        leaves = outline(data["in"])
        _check_call(data["in"])
        if leaves != len(arguments):
            raise FileError(f"the signature has {len(arguments)} arguments for {leaves} leaves")
        outline(data["out"])
        specs = _spec(data["in"]), _spec(data["out"])
        return Signature(*specs, arguments, ranges, parameters, defaults, guards)  # type: ignore[arg-type]
    except FileError:
        raise
    except Exception as error:
        raise FileError(f"the signature is damaged: {type(error).__name__}: {error}") from None


def _check_call(spec: Any) -> None:
    """Calls are a tuple of positional arguments and a dict of keyword arguments."""
    kinds = [child and child["type"] for child in spec["children"]] if spec else []
    if spec is None or spec["type"] != "builtins.tuple" or kinds != ["builtins.tuple", "builtins.dict"]:
        raise FileError("the signature does not have positional and keyword arguments")


def _range(sizes: list[Any]) -> Range:
    if len(sizes) != 3 or not all(type(size) is int and abs(size) <= 1 << 64 for size in sizes):
        raise FileError(f"{str(sizes)[:80]} is not a range of sizes")
    return Range(*sizes)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise FileError(f"{str(value)[:40]!r} stands where the signature has a name")
    return value


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
    if "shape" in data and ("dtype" not in data or not isinstance(data["shape"], list)):
        raise FileError(f"the argument {str(data['name'])[:40]!r} is a tensor of no dtype or shape")
    return Argument(
        _text(data["name"]),
        _text(data["placeholder"]) if "placeholder" in data else None,
        tuple(read_size(size, symbols) for size in data["shape"]) if "shape" in data else None,
        read_dtype(data["dtype"]) if "dtype" in data else None,
        _text(data["device"]) if "device" in data else None,
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
        FileError: it is damaged, or has a class that is not there or that files may not name.
    """
    outline(data)
    return _spec(data)


def outline(data: Any) -> int:
    """Check a structure without making anything of it, or for it; returns the number of its leaves.

    Raises:
        FileError: it is damaged, or has a class that is not there or that files may not name.
    """
    if data is None:
        return 1
    if not isinstance(data, dict) or not {"type", "context", "children"} <= data.keys():
        raise FileError("a container among inputs or results is damaged")
    children = data["children"]
    if not isinstance(children, list):
        raise FileError("a container among inputs or results is damaged: its children are not a list")
    _check_context(data["context"], FileError)
    context = read_value(data["context"], _class_outline)
    containers.check(data["type"], context, len(children))
    return sum(map(outline, children))


def _class_outline(data: Mapping[str, Any]) -> Any:
    return containers.Named(str(data["class"])) if "class" in data else NotImplemented


def _spec(data: Any) -> pytree.TreeSpec:
    if data is None:
        return pytree.tree_structure(0)
    found = containers.container(data["type"])
    return pytree.TreeSpec(
        found, read_value(data["context"], _read_class), [_spec(child) for child in data["children"]]
    )


def _write_class(value: Any) -> Any:
    return {"class": _class_name(value)} if isinstance(value, type) else NotImplemented


def _read_class(data: Mapping[str, Any]) -> Any:
    return containers.class_in_context(data["class"]) if "class" in data else NotImplemented


def _class_name(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


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
                    if not isinstance(value, str) or not (value in _CONTAINERS or _NAMED_CLASS.fullmatch(value)):
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
