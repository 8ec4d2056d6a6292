"""The installed TensorRT's Python bindings, as far as layer declarations speak of them."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

from engine.errors import TensorRTNotFound
from engine.tensorrt import Capabilities, capabilities, load


@dataclass(frozen=True, slots=True)
class Method:
    """One overload of an ``INetworkDefinition.add_*``.

    Attributes:
        parameters: names in order, without ``self``.
        required: how many of them have no default.
        returns: name of the class of the layer, e.g. ``ISliceLayer``.
    """

    parameters: tuple[str, ...]
    required: int
    returns: str


class Bindings:
    """Questions about the classes of a TensorRT module."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    @functools.cache  # noqa: B019  there is one instance per process
    def methods(self, name: str) -> tuple[Method, ...]:
        """The overloads of a method of the network; empty if there is none."""
        function = getattr(self._module.INetworkDefinition, name, None)
        return () if function is None else _overloads(name, function.__doc__ or "")

    @functools.cache  # noqa: B019
    def properties(self, layer_class: str) -> frozenset[str]:
        """Names of the properties of a layer class."""
        return frozenset(name for name in dir(getattr(self._module, layer_class, object)) if not name.startswith("_"))

    @functools.cache  # noqa: B019
    def members(self, enum: str) -> frozenset[str] | None:
        """Members of an enum class, None if there is no such class."""
        members: Mapping[str, object] | None = getattr(getattr(self._module, enum, None), "__members__", None)
        return None if members is None else frozenset(members)

    def enums(self) -> frozenset[str]:
        """Names of the enum classes."""
        return frozenset(name for name in dir(self._module) if hasattr(getattr(self._module, name), "__members__"))

    def name(self) -> str:
        """Package and version, e.g. ``tensorrt_rtx 1.6.1.120``."""
        return f"{self._module.__name__} {self._module.__version__}"


def bindings_for(wanted: Capabilities | None) -> Bindings | None:
    """The installed bindings, if they are what ``wanted`` describes."""
    try:
        return _installed() if wanted is not None and wanted == capabilities() else None
    except TensorRTNotFound:
        return None


@functools.cache
def _installed() -> Bindings:
    return Bindings(load())


def _overloads(name: str, doc: str) -> tuple[Method, ...]:
    """Read the signatures that pybind writes at the head of a docstring."""
    found = []
    for text, returns in re.findall(rf"^(?:\d+\. )?{name}\((self: .*)\) -> (\S+)$", doc, re.MULTILINE):
        parameters = _split(text)[1:]
        required = sum("=" not in parameter for parameter in parameters)
        names = tuple(parameter.partition(":")[0].strip() for parameter in parameters)
        found.append(Method(names, required, returns.rpartition(".")[2]))
    return tuple(found)


def _split(text: str) -> list[str]:
    """Parameters, parted at the commas that are outside brackets."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        if letter in "([<{":
            depth += 1
        elif letter in ")]>}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]
