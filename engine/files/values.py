"""Plain Python values as JSON: the arguments of graph nodes, constants of signatures, contexts of pytrees.

Lists, strings, ints, finite floats, bools and None are themselves; everything else is an object with one
key that says what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from engine.errors import FileError, SaveError
from engine.runtime.records.specs import read_dtype, write_dtype

Special = Callable[[Any], Any]
"""Writes or reads values that this module does not know; returns ``NotImplemented`` for those it does not know."""

_LAYOUTS = {str(layout): layout for layout in (torch.strided, torch.sparse_coo, torch.sparse_csr)}
_FORMATS = {
    str(item): item
    for item in (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
}


def _unknown(value: Any) -> Any:
    return NotImplemented


def write_value(value: Any, special: Special = _unknown) -> Any:
    """A value as JSON.

    Raises:
        SaveError: it has no JSON form here.
    """
    match value:
        case None | bool() | str():
            return value
        case float() if not math.isfinite(value):
            return {"float": str(value)}
        case int() | float() if type(value) in (int, float):
            return value
        case list() if type(value) is list:
            return [write_value(item, special) for item in value]
        case torch.dtype():
            return {"dtype": write_dtype(value)}
        case torch.device():
            return {"device": str(value)}
        case torch.layout():
            return {"layout": str(value)}
        case torch.memory_format():
            return {"memory_format": str(value)}
        case complex():
            return {"complex": [write_value(value.real), write_value(value.imag)]}
        case slice():
            return {"slice": [write_value(part, special) for part in (value.start, value.stop, value.step)]}
        case range():
            return {"range": [value.start, value.stop, value.step]}
        case bytes():
            return {"bytes": value.hex()}
    if value is ...:
        return {"ellipsis": None}
    found = special(value)
    if found is not NotImplemented:
        return found
    # Named tuples, torch.Size and the immutable lists of graphs behave like what they derive from.
    if isinstance(value, tuple):
        return {"tuple": [write_value(item, special) for item in value]}
    if isinstance(value, list):
        return [write_value(item, special) for item in value]
    if isinstance(value, Mapping):
        return {"dict": [[write_value(key, special), write_value(item, special)] for key, item in value.items()]}
    raise SaveError(f"a {type(value).__module__}.{type(value).__qualname__} cannot be saved: {str(value)[:80]!r}")


def read_value(data: Any, special: Special = _unknown) -> Any:
    """The value that `write_value` wrote.

    Raises:
        FileError: it is damaged, or nothing that this version knows.
    """
    if data is None or isinstance(data, bool | str | int | float):
        return data
    if isinstance(data, list):
        return [read_value(item, special) for item in data]
    if not isinstance(data, dict) or len(data) != 1:
        raise FileError(f"{str(data)[:80]} is not a value")
    found = special(data)
    if found is not NotImplemented:
        return found
    ((kind, content),) = data.items()
    try:
        return _read(kind, content, special)
    except FileError:
        raise
    except Exception as error:
        raise FileError(f"{str(data)[:80]} is not a value: {error}") from None


def _read(kind: str, content: Any, special: Special) -> Any:
    match kind:
        case "tuple":
            return tuple(read_value(item, special) for item in _listed(content))
        case "dict":
            return {read_value(key, special): read_value(item, special) for key, item in _listed(content)}
        case "float" if content in ("inf", "-inf", "nan"):
            return float(content)
        case "complex":
            return complex(*(float(read_value(part)) for part in _listed(content)))
        case "slice":
            return slice(*(read_value(part, special) for part in _listed(content)))
        case "range":
            return range(*map(int, _listed(content)))
        case "bytes":
            return bytes.fromhex(content)
        case "ellipsis":
            return ...
        case "dtype":
            return read_dtype(content)
        case "device" if isinstance(content, str):
            return torch.device(content)
        case "layout":
            return _LAYOUTS[content]
        case "memory_format":
            return _FORMATS[content]
    raise FileError(f"{kind!r} is not a kind of value that this version of engine knows")


def _listed(content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise FileError(f"{str(content)[:80]} is not a list")
    return content


__all__ = ["Special", "read_value", "write_value"]
