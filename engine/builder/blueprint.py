"""Blueprints: networks as data, from which TensorRT builds an engine again with other weights.

TensorRT-RTX builds in about a second what it takes much longer to export, rewrite and convert, and an engine that is
built again is as fast as the first; engines that it builds to be refitted are not, and need a driver that is as new
as its compiler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from engine.conversion.scope import quote
from engine.conversion.weights import WeightStore
from engine.errors import FileError, RefitError
from engine.tensorrt import load
from engine.weights.recipe_encoding import decode_tensor, encode_tensor

if TYPE_CHECKING:
    from engine.conversion.network import BuiltNetwork

_METHODS = ("add_", "set_dimension_name", "set_condition", "mark_output")
# Calls that open what other calls are methods of.
_REGIONS = ("add_loop", "add_if_conditional")


class NoBlueprint(Exception):
    """A network was told something that cannot be saved."""


@dataclass(frozen=True)
class Blueprint:
    """A network without the weights that have names.

    Attributes:
        name: of the network.
        calls: what it was told, as JSON values.
        profiles: per optimization profile, per input with dynamic dims its name, bounds of the shape, and bounds of
            the values of a shape tensor, None for others.
        held: constants that no refit replaces, by the numbers that ``calls`` have for them.
    """

    name: str
    calls: tuple[Any, ...]
    profiles: tuple[Any, ...]
    held: tuple[torch.Tensor, ...] = field(repr=False)

    @classmethod
    def of(cls, built: BuiltNetwork) -> Blueprint:
        """The blueprint of a network.

        Raises:
            NoBlueprint: the network was told something that cannot be saved.
        """
        held: dict[int, tuple[int, torch.Tensor]] = {}

        def content(tensor: torch.Tensor, name: str | None) -> Any:
            if name is not None:
                return ["named", name]
            return ["held", held.setdefault(id(tensor), (len(held), tensor))[0]]

        calls = tuple(written(built, content, metadata=True))
        tensors = tuple(tensor.clone() for _, tensor in held.values())
        return cls(built.name, calls, tuple(bounds(built)), tensors)

    def build(self, weights: Mapping[str, torch.Tensor], settings: Any) -> bytes | memoryview:
        """The engine, with these weights.

        Args:
            weights: every weight that has a name, on the CPU, contiguous, of the shape and dtype of before.
            settings: those that the engine was built with.

        Raises:
            BuildError: TensorRT could not build it.
            RefitError: a weight is missing, or the blueprint is not of this TensorRT.
        """
        from engine.builder.builder import build
        from engine.conversion.network import empty_network

        built = empty_network(self.name, settings)
        try:
            with built.logger.gather() as messages:
                _Replay(self, built, weights).run()
                profiles = [self._profile(built.builder, entries) for entries in self.profiles]
            # What TensorRT does not take it only logs.
            if quote(messages):
                raise RuntimeError(quote(messages))
        except (TypeError, ValueError, AttributeError, RuntimeError, KeyError, IndexError) as error:
            raise RefitError(f"{self.name} cannot be built again by this TensorRT: {error}") from error
        if profiles:
            built.profile, built.more_profiles = profiles[0], tuple(profiles[1:])
        return build(built)

    @staticmethod
    def _profile(builder: Any, entries: Any) -> Any:
        profile = builder.create_optimization_profile()
        for name, shapes, values in entries:
            if values is None:
                profile.set_shape(name, *map(tuple, shapes))
            else:
                profile.set_shape_input(name, *values)
        return profile

    def to_json(self) -> dict[str, Any]:
        """The blueprint as JSON values, for files."""
        return {
            "name": self.name,
            "calls": list(self.calls),
            "profiles": list(self.profiles),
            "held": [encode_tensor(tensor) for tensor in self.held],
        }

    @classmethod
    def from_json(cls, data: Any) -> Blueprint:
        """The blueprint that :meth:`to_json` wrote.

        Raises:
            FileError: it is no such thing.
        """
        try:
            calls = tuple(data["calls"])
            for call in calls:
                _check_call(call)
            held = tuple(decode_tensor(tensor) for tensor in data["held"])
            return cls(str(data["name"]), calls, tuple(data["profiles"]), held)
        except FileError:
            raise
        except Exception as error:
            raise FileError(f"the blueprint of an engine is damaged: {type(error).__name__}: {error}") from error


def _check_call(call: Any) -> None:
    """Refuse what tells a network, or a layer, anything but methods and attributes of TensorRT."""
    method, arguments, _, then, name, metadata = call
    if not _is_public(method) or not method.startswith(_METHODS) or not isinstance(arguments, list):
        raise FileError("the blueprint of an engine is damaged: it calls a method that adds no layer")
    for called, attribute, _ in then:
        if not _is_public(attribute) or (called and not attribute.startswith("set_")):
            raise FileError(f"the blueprint of an engine is damaged: layers have no {str(attribute)[:40]!r}")
    if not isinstance(name, str) or not isinstance(metadata, str):
        raise FileError("the blueprint of an engine is damaged: a layer has no name")


def _is_public(name: Any) -> bool:
    return isinstance(name, str) and name.isidentifier() and not name.startswith("_")


def written(built: BuiltNetwork, content: Callable[[torch.Tensor, str | None], Any], *, metadata: bool) -> list[Any]:
    """The calls that made a network, as JSON values; equal for networks that the same calls made.

    Args:
        content: what to write for the weights in a host tensor, which may have a name.
        metadata: with the metadata of layers, which say where rules and models stand in their files.

    Raises:
        NoBlueprint: the network was told something that cannot be saved.
    """
    trt = load()

    def value(item: Any) -> Any:
        if item is None or isinstance(item, bool | int | str):
            return item
        if isinstance(item, float):
            return {"float": repr(item)}
        if isinstance(item, list | tuple):
            return [value(part) for part in item]
        label = built.call_log.label(item)
        if label is not None:
            return {"tensor": label}
        if isinstance(item, trt.Weights):
            held, name = built.weights.issued(item)
            return {"weights": [item.dtype.name, item.size, None if held is None else content(held, name)]}
        if hasattr(type(item), "__members__"):
            return {"enum": [type(item).__name__, item.name]}
        raise NoBlueprint(f"a {type(item).__name__} cannot be saved")

    return [
        [
            call.method,
            value(call.arguments),
            call.owner,
            [[said.call, said.name, value(said.value)] for said in call.then],
            call.name,
            call.metadata if metadata else "",
        ]
        for call in built.call_log
    ]


def bounds(built: BuiltNetwork) -> list[Any]:
    """The optimization profiles of a network as JSON values."""
    if built.profile is None:
        return []
    network = built.network
    found: list[Any] = []
    for profile in (built.profile, *built.more_profiles):
        entries: list[Any] = []
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            if tensor.is_shape_tensor:
                entries.append([tensor.name, None, [list(part) for part in profile.get_shape_input(tensor.name)]])
            elif -1 in tuple(tensor.shape):
                entries.append([tensor.name, [list(part) for part in profile.get_shape(tensor.name)], None])
        found.append(entries)
    return found


class _Replay:
    """Tells a new network what another one was told."""

    def __init__(self, blueprint: Blueprint, built: BuiltNetwork, weights: Mapping[str, torch.Tensor]) -> None:
        self._blueprint = blueprint
        self._built = built
        self._weights = weights
        self._tensors: dict[str, Any] = {}
        self._regions: dict[str, Any] = {}
        self._later: list[tuple[Any, Any]] = []  # what names tensors that are not made yet

    def run(self) -> None:
        for number, (method, arguments, owner, then, name, metadata) in enumerate(self._blueprint.calls, 1):
            network = self._built.network
            given = tuple(map(self._value, arguments))
            if method == "add_input" and owner is None:
                self._tensors[f"{number}.0"] = network.add_input(*given)
            elif method == "set_dimension_name":
                given[0].set_dimension_name(*given[1:])
            elif method == "mark_output":
                given[0].name = given[1]
                network.mark_output(given[0])
            elif method in _REGIONS:
                self._regions[name] = getattr(network, method)()
                self._regions[name].name = name
            else:
                layer = getattr(network if owner is None else self._regions[owner], method)(*given)
                if layer is None:
                    raise RuntimeError(f"{method} returned no layer for {name}")
                self._finish(layer, then, name, metadata)
                for index in range(layer.num_outputs):
                    self._tensors[f"{number}.{index}"] = layer.get_output(index)
            self._catch_up()
        if self._later:
            raise ValueError("a layer reads a tensor that no layer makes")

    def _finish(self, layer: Any, then: Any, name: str, metadata: str) -> None:
        for said in then:
            if self._ready(said[2]):
                self._tell(layer, said)
            else:
                self._later.append((layer, said))
        layer.name = name
        if metadata and hasattr(layer, "metadata"):
            layer.metadata = metadata

    def _catch_up(self) -> None:
        waiting, self._later = self._later, []
        for layer, said in waiting:
            if self._ready(said[2]):
                self._tell(layer, said)
            else:
                self._later.append((layer, said))

    def _tell(self, layer: Any, said: Any) -> None:
        call, name, value = said
        if call:
            getattr(layer, name)(*map(self._value, value))
        else:
            setattr(layer, name, self._value(value))

    def _ready(self, value: Any) -> bool:
        if isinstance(value, list):
            return all(map(self._ready, value))
        return not isinstance(value, dict) or "tensor" not in value or value["tensor"] in self._tensors

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(map(self._value, value))
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "tensor":
            return self._tensors[content]
        if kind == "float":
            return float(content)
        trt = load()
        if kind == "enum":
            return vars(trt)[content[0]].__members__[content[1]]
        dtype, count, place = content
        data_type = getattr(trt.DataType, dtype)
        if place is None:
            return trt.Weights(data_type, 0, 0) if count == 0 else trt.Weights(data_type)
        if place[0] == "named":
            if place[1] not in self._weights:
                raise RefitError(f"{self._blueprint.name} cannot be built again: the weight {place[1]} is missing")
            tensor = self._weights[place[1]]
        else:
            tensor = self._blueprint.held[place[1]]
        found = WeightStore.pointer(tensor)
        if (found.dtype, found.size) != (data_type, count):
            raise ValueError(f"weights of {math.prod(tensor.shape)} {tensor.dtype} are not {count} {dtype}")
        return found


__all__ = ["Blueprint", "NoBlueprint", "bounds", "written"]
