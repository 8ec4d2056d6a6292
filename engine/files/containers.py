"""Which classes a file may name as containers: built-in ones, those that are registered with PyTorch, named tuples.

Nothing is imported for a file but modules of libraries of models that hold the classes of their results, and only
after the module's source was seen to define the class.  Nothing is registered for a file but key-value caches of
transformers.  Both are the last that a load does, so that a file that is refused changes nothing.
"""

from __future__ import annotations

import collections
import importlib
import importlib.util
import re
import sys
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils import _pytree as pytree

from engine.capture.pytrees import register
from engine.errors import FileError

_BUILTINS: dict[str, Any] = {
    **{f"builtins.{cls.__name__}": cls for cls in (dict, list, tuple)},
    **{f"collections.{name}": getattr(collections, name) for name in ("OrderedDict", "defaultdict", "deque")},
    "collections.namedtuple": collections.namedtuple,
}
_FACTORIES: dict[str, type] = {
    **{f"builtins.{cls.__name__}": cls for cls in (bool, dict, float, int, list, set, str, tuple)},
    **{f"collections.{name}": getattr(collections, name) for name in ("OrderedDict", "deque")},
}
# Modules of libraries of models that hold classes of results, and do nothing else when they are imported.
_LIBRARY_MODULE = re.compile(
    r"transformers\.(modeling_outputs|cache_utils|models(\.[a-z]\w*)+\.modeling_\w+)"
    r"|diffusers\.(utils\.outputs|models(\.[a-z]\w*)+)"
    r"|torchvision\.models(\.[a-z]\w*)+"
)


@dataclass(frozen=True)
class Named:
    """A class that a context names, before it is looked up."""

    name: str


def check(name: Any, context: Any, children: int) -> None:
    """Check a container without effect.

    Args:
        name: of its class, ``module.Class``.
        context: its context, with `Named` in the place of classes.
        children: how many things it holds.

    Raises:
        FileError: files may not name the class, or a container of the class does not have such a context.
    """
    if name in _BUILTINS:
        if not _fits(str(name), context, children):
            raise FileError(f"a {name} among inputs or results is damaged: its context is {str(context)[:80]}")
        return
    if any(isinstance(item, Named) for item in pytree.tree_leaves(context)):
        raise FileError(f"the context of a {name} names a class, which only those of built-in containers do")
    found = _class(name)
    if found is None:
        _check_library(name)
    elif not _is_known(found):
        raise FileError(
            f"{name} is not a container that PyTorch knows: register it (torch.export.register_dataclass, or "
            "torch.utils._pytree.register_pytree_node) before the file is loaded"
        )


def _fits(name: str, context: Any, children: int) -> bool:
    kind = name.rpartition(".")[2]
    if kind == "namedtuple":
        return isinstance(context, Named) and _check_named_tuple(context.name, children)
    if kind == "defaultdict":
        if not isinstance(context, list) or len(context) != 2:
            return False
        factory, context = context
        if not (factory is None or (isinstance(factory, Named) and factory.name in _FACTORIES)):
            raise FileError(f"a defaultdict is filled by {str(getattr(factory, 'name', factory))[:80]!r}")
    if kind in ("dict", "OrderedDict", "defaultdict"):
        hashable = isinstance(context, list) and all(isinstance(key, Hashable) for key in context)
        return hashable and len(set(context)) == len(context) == children and not _names_in(context)
    if kind == "deque":
        return context is None or (type(context) is int and context >= 0)
    return context is None


def _names_in(values: Any) -> bool:
    return any(isinstance(item, Named) for item in values)


def _check_named_tuple(name: str, children: int) -> bool:
    found = _class(name)
    if found is None:
        _check_library(name)
        return True
    if not _is_named_tuple(found):
        raise FileError(f"{name} stands where a named tuple is expected")
    return len(found._fields) == children  # type: ignore[attr-defined]


def _is_named_tuple(cls: type) -> bool:
    """Whether making one runs no code but that of `collections.namedtuple`."""
    made_by = getattr(cls.__new__, "__globals__", {}).get("__name__")
    return (
        cls.__bases__ == (tuple,)
        and isinstance(getattr(cls, "_fields", None), tuple)
        and made_by == f"namedtuple_{cls.__name__}"
        and cls.__init__ is object.__init__  # type: ignore[misc]
    )


def _is_known(cls: type) -> bool:
    return cls in pytree.SUPPORTED_NODES or _is_cache(cls)


def _is_cache(cls: type) -> bool:
    """Whether it is a key-value cache of transformers, which `container` registers."""
    base = vars(sys.modules.get("transformers.cache_utils", object)).get("Cache")
    return isinstance(base, type) and issubclass(cls, base) and cls.__module__.startswith("transformers.")


def container(name: Any) -> Any:
    """The class of a container that was checked; it is imported and registered where that is allowed.

    Raises:
        FileError: it is not there, or no container.
    """
    if name in _BUILTINS:
        return _BUILTINS[name]
    found = _class(name) or _imported(name)
    if _is_cache(found) and found not in pytree.SUPPORTED_NODES:
        try:
            register(found)
        except Exception as error:  # whatever transformers runs into when it imports what it needs for that
            raise FileError(f"the model takes or returns a {name}, which cannot be registered: {error}") from error
    if found not in pytree.SUPPORTED_NODES:
        raise FileError(f"{name} is not a container that PyTorch knows")
    return found


def class_in_context(name: Any) -> Any:
    """The class that a checked context names.

    Raises:
        FileError: it is not there, or no named tuple.
    """
    if name in _FACTORIES:
        return _FACTORIES[name]
    found = _class(name) or _imported(name)
    if not _is_named_tuple(found):
        raise FileError(f"{name} stands where a named tuple is expected")
    return found


def _class(name: Any) -> type | None:
    """The class of a name, if the module that defines it was imported already; no code is run to find it."""
    parts = name.split(".") if isinstance(name, str) else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise FileError(f"{str(name)[:80]!r} is not the name of a class")
    for end in range(len(parts) - 1, 0, -1):
        # Not `getattr`: modules can import others when they are asked for a name.
        found: Any = sys.modules.get(".".join(parts[:end]))
        for part in parts[end:]:
            found = vars(found).get(part) if hasattr(found, "__dict__") else None
        if isinstance(found, type):
            return found
    return None


def _check_library(name: str) -> None:
    module, _, cls = name.rpartition(".")
    if not _LIBRARY_MODULE.fullmatch(module):
        raise FileError(
            f"the model takes or returns a {name}, which is not known here: import {module} before the file is loaded"
        )
    library, *inner = module.split(".")
    # Only the library itself is looked for, which imports nothing.
    found = importlib.util.find_spec(library)
    if found is None:
        raise FileError(f"the model takes or returns a class of {module}, which needs {library}")
    defined = re.compile(rf"^(class {cls}\b|{cls}\s*=\s*(collections\.)?namedtuple\()", re.MULTILINE)
    for folder in found.submodule_search_locations or ():
        for source in (Path(folder, *inner).with_suffix(".py"), Path(folder, *inner, "__init__.py")):
            if source.is_file() and defined.search(source.read_text(encoding="utf-8", errors="replace")):
                return
    raise FileError(f"the model takes or returns a {name}, which the installed {library} does not have")


def _imported(name: str) -> type:
    _check_library(name)
    module = name.rpartition(".")[0]
    try:
        importlib.import_module(module)
    except Exception as error:
        raise FileError(f"the model takes or returns a class of {module}, which cannot be imported: {error}") from error
    found = _class(name)
    if found is None:
        raise FileError(f"the model takes or returns a {name}, which the installed library does not have")
    return found


__all__ = ["Named", "check", "class_in_context", "container"]
