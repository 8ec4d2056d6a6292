"""One layer call of a plan on its way to becoming a layer of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from engine.conversion.call_log import Said
from engine.conversion.dtypes import tensorrt_dtype
from engine.conversion.scope import Rejected
from engine.dsl import tree
from engine.dsl.rule import EnumToken
from engine.dtypes import DTYPES
from engine.evaluator import Context, evaluate
from engine.evaluator.plan import (
    AbstractTensor,
    CallOutput,
    LayerCall,
)
from engine.graph import provenance
from engine.sizes import is_known
from engine.tensorrt import load

if TYPE_CHECKING:
    from engine.conversion.emitter import Emitter
    from engine.partitioner.tile import Tile


class _InSlot:
    """Marks a parameter that travels through an input slot instead of a property."""


_IN_SLOT = _InSlot()


class LayerEmission:
    """One call of a plan on its way to becoming a layer."""

    def __init__(
        self, emitter: Emitter, call: LayerCall, tile: Tile, made: dict[int, tuple[Any, ...]], written: dict[int, Any]
    ) -> None:
        self._emitter = emitter
        self._call = call
        self._tile = tile
        self._made = made
        self._written = written
        self._slots: dict[int, Any] = {}  # inputs to be set once the layer exists
        self._holds: list[Said] = []  # attributes that the layer has from its constructor
        self._parameters = {parameter.name: parameter for parameter in call.layer.parameters}

    def add(self) -> tuple[Any, ...]:
        """Add the layer and return its checked output tensors."""
        call, emitter = self._call, self._emitter
        layer, scope = call.layer, emitter.scope
        passed = [argument.name for argument in layer.via.arguments if isinstance(argument, tree.Name)]
        arguments = [self._argument(argument) for argument in layer.via.arguments]
        properties = [
            (parameter.property or parameter.name, self._property(parameter))
            for parameter in layer.parameters
            if parameter.name not in passed and call.values.get(parameter.name) is not None
        ]

        def finish(made: Any) -> None:
            for name, value in properties:
                if value is not _IN_SLOT:
                    setattr(made, name, value)
            for slot, tensor in self._slots.items():
                made.set_input(slot, tensor)

        made = scope.add(
            _method(layer.via),
            arguments,
            self._name(),
            then=finish,
            metadata=self._metadata(),
            holds=self._holds,
        )
        outputs = []
        for index, promised in enumerate(call.outputs):
            tensor, shape, data_type = scope.output(made, index)
            emitter.check(promised.shape, promised.dtype, shape, data_type, "the layer's declaration")
            outputs.append(tensor)
        return tuple(outputs)

    def _name(self) -> str:
        return f"{self._tile.rule.id}/{self._tile.node.name}/{self._call.layer.name.removeprefix('trt.')}"

    def _metadata(self) -> dict[str, str]:
        return metadata(self._tile, str(self._call.span))

    # ------------------------------------------------------------ values

    def _argument(self, argument: Any) -> Any:
        """A constructor argument: a parameter by name, or an expression over parameters."""
        if isinstance(argument, tree.Name) and argument.name in self._parameters:
            parameter = self._parameters[argument.name]
            value = self._call.values.get(parameter.name)
            return self._constructor_value(parameter, value)
        value = evaluate(argument, dict(self._call.values), self._emitter.context)
        if isinstance(value, AbstractTensor):
            return self._tensor(value)
        if not is_known(value):
            raise Rejected(f"{value} must be known when the network is built")
        return _plain(value)

    def _constructor_value(self, parameter: tree.Parameter, value: Any) -> Any:
        kind = _kind(parameter)
        if kind == "weights":
            return self._emitter.scope.weights.empty(self._weights_dtype()) if value is None else self._weights(value)
        if kind == "tensor" and parameter.slot is not None:
            if value is not None:
                self._slots[parameter.slot] = self._tensor(value)
            return self._emitter.scope.weights.empty(self._weights_dtype())
        if parameter.attribute and not is_known(value):
            self._deliver(parameter, value)
            return (0,) * len(value) if isinstance(value, tuple) else 0
        converted = self._converted(parameter, value)
        if parameter.attribute:
            self._holds.append(Said(False, parameter.property or parameter.name, converted))
        return converted

    def _property(self, parameter: tree.Parameter) -> Any:
        value = self._call.values[parameter.name]
        if not parameter.attribute:
            if parameter.slot is not None:
                self._slots[parameter.slot] = self._converted(parameter, value)
                return _IN_SLOT
            return self._converted(parameter, value)
        if not is_known(value):
            symbolic = [index for index, item in enumerate(value) if not isinstance(item, int)]
            if parameter.wildcard and len(symbolic) == 1 and 0 not in value:
                return tuple(-1 if index == symbolic[0] else item for index, item in enumerate(value))
            self._deliver(parameter, value)
            return _IN_SLOT
        return self._converted(parameter, value)

    def _deliver(self, parameter: tree.Parameter, value: Any) -> None:
        """Send an attribute that is only known at run time through its input slot."""
        if parameter.slot is None:
            raise Rejected(f"`{parameter.name}` is {value}, which must be known when the network is built")
        shapes = self._emitter.shapes
        # Lists are dims, which are INT64; single numbers (k of a top-k) are INT32 in TensorRT's documentation.
        vector = isinstance(value, list | tuple)
        self._slots[parameter.slot] = shapes.vector(value) if vector else shapes.scalar(value, torch.int32)

    def _converted(self, parameter: tree.Parameter, value: Any) -> Any:
        """A value as the Python bindings take it."""
        kind = _kind(parameter)
        if value is None:
            return None
        if kind == "tensor":
            return self._tensor(value)
        if kind == "tensors":
            return [self._tensor(item) for item in value]
        if kind == "weights":
            return self._weights(value)
        if kind in ("int", "ints") and not parameter.attribute:
            if _is_static(parameter) and not is_known(value):
                raise Rejected(f"`{parameter.name}` is {value}, which must be known when the network is built")
            shapes = self._emitter.shapes
            return shapes.vector(value) if kind == "ints" else shapes.scalar(value, torch.int32)
        if kind == "axes":
            return sum(1 << axis for axis in set(value))
        if isinstance(value, torch.dtype):
            return tensorrt_dtype(value)
        if isinstance(value, EnumToken):
            return _member(kind, value.name)
        return _plain(value)

    def _tensor(self, value: AbstractTensor) -> Any:
        return self._emitter.resolve(self._apart(value), self._made, self._written)

    def _apart(self, value: AbstractTensor) -> AbstractTensor:
        """An operand, behind a layer that changes nothing where TensorRT would join what must stay apart."""
        call, emitter = self._call, self._emitter
        apart = call.layer.apart
        if apart is None or not emitter.was_made_by(value, apart.layers):
            return value
        if evaluate(apart.condition, dict(call.values), emitter.context) is not True:
            return value
        context = Context(emitter.context.mirror, {call.layer.name: call.layer}, {})
        instead = evaluate(apart.instead, {apart.name: value}, context)
        # The checker saw that it calls this layer.
        assert isinstance(instead, CallOutput)
        assert isinstance(instead.call, LayerCall)
        between = LayerEmission(emitter, instead.call, self._tile, self._made, self._written)
        self._made[id(instead.call)] = between.add()
        return instead

    def _weights(self, value: AbstractTensor) -> Any:
        return self._emitter.weights(value)

    def _weights_dtype(self) -> torch.dtype:
        """The dtype of the layer's first tensor: empty weights must not contradict it."""
        for value in self._call.values.values():
            if isinstance(value, AbstractTensor) and value.dtype is not None:
                return value.dtype
        return torch.float32


def metadata(tile: Tile, where: str | None = None) -> dict[str, str]:
    """The metadata of the layers of a tile."""
    return {
        "rule": tile.rule.id,
        "where": where or tile.rule.where,
        "node": tile.node.name,
        "module": provenance.module_path(tile.node),
        "source": provenance.model_line(tile.node),
    }


def _method(via: tree.Call) -> str:
    assert isinstance(via.function, tree.Name)
    return via.function.name


def _kind(parameter: tree.Parameter) -> str:
    """``tensor``, ``tensors``, ``weights``, ``int``, ``ints``, ``axes``, another sort, or the name of an enum class."""
    kind = parameter.type
    if kind is None:
        return "tensor"
    if kind.element is not None:
        return _sort(kind.element) + "s"
    return _sort(kind)


def _sort(kind: tree.Type) -> str:
    """The first name of a type; tensors of certain dtypes are tensors."""
    first = kind.names[0] if kind.names else "tensor"
    return "tensor" if first in DTYPES and first != "bool" else first


def _is_static(parameter: tree.Parameter) -> bool:
    return parameter.type is not None and parameter.type.modifier == "static"


def _member(enum: str, name: str) -> Any:
    trt = load()
    members = getattr(trt, enum, None)
    member = None if members is None else getattr(members, name, None)
    if member is None:
        raise Rejected(f"{trt.__name__} {trt.__version__} has no {enum}.{name}")
    return member


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


__all__ = ["LayerEmission", "metadata"]
