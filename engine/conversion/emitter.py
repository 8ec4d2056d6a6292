"""The emitter: replays the plans of tiles into a TensorRT network.

It knows no layer by name.  What a call's values mean, and where they go (constructor, property or input slot), is
what the layer's declaration in ``rules/layers.rules`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch import fx

from engine.conversion.call_log import Said
from engine.conversion.constants import WrittenConstants
from engine.conversion.dtypes import tensorrt_dtype, torch_dtype
from engine.conversion.flow import FlowEmission
from engine.conversion.scope import Mismatch, NetworkScope, Rejected, mismatch
from engine.conversion.shapes import ShapeTensors
from engine.conversion.weights import Origin
from engine.dsl import tree
from engine.dsl.rule import EnumToken
from engine.dtypes import DTYPES
from engine.errors import ConversionError
from engine.evaluator import Context, evaluate
from engine.evaluator.failures import Failed
from engine.evaluator.plan import (
    AbstractTensor,
    CallOutput,
    Captured,
    ConstantTensor,
    GraphCall,
    LayerCall,
    OpCall,
)
from engine.graph import provenance
from engine.graph.mirror import Mirror, Value
from engine.sizes import Int, is_known, normal
from engine.tensorrt import load
from engine.weights.frozen_constants import FrozenConstant, digest
from engine.weights.recipe import recipe

if TYPE_CHECKING:
    from engine.partitioner.tile import Tile


# Integers of the model are sizes and indices, by which TensorRT may decide what a layer does.
_REPLACEABLE = frozenset(
    dtype for dtype in DTYPES.values() if dtype.is_floating_point or dtype in (torch.int8, torch.uint8)
)


class TileRejected(ConversionError):
    """A tile cannot be in this network.

    Attributes:
        node: the root of the tile.
        rule: the rule that made its plan.
    """

    def __init__(self, tile: Tile, what: str, reason: str) -> None:
        self.node = tile.node
        self.rule = tile.rule
        line = provenance.model_line(tile.node)
        super().__init__(
            f"{reason}\n  in {what} of rule {tile.rule.id} ({tile.rule.where})"
            f"\n  for node {tile.node.name}" + (f", from {line}" if line else "")
        )


class Emitter:
    """Adds tiles to one network.

    ``tensors`` maps values of the graph to network tensors; the caller enters the network's inputs before the
    first tile and reads the outputs after the last.  With ``refittable``, weights that come from the model get
    names, and ``frozen`` are the constants of the model that the network holds for good all the same.  The graph inside
    an op has an emitter of its own, which shares all that with the one ``around`` it.
    """

    def __init__(
        self,
        scope: NetworkScope,
        shapes: ShapeTensors,
        mirror: Mirror,
        *,
        refittable: bool = False,
        around: Emitter | None = None,
    ) -> None:
        self.tensors: dict[Value, Any] = {}
        self.frozen: list[FrozenConstant] = [] if around is None else around.frozen
        self._origins: dict[Value, Origin | None] = {}
        self._refittable = refittable
        self._scope = scope
        self._shapes = shapes
        self._mirror = mirror
        self._context = Context(mirror, {}, {})
        self._written: WrittenConstants = WrittenConstants(scope, shapes) if around is None else around._written

    # ------------------------------------------------------------ tiles

    def emit(self, tile: Tile) -> None:
        """Add the layers of a tile and enter its outputs into ``tensors``.

        Raises:
            TileRejected: TensorRT does not take a layer, or infers another shape or dtype than was promised.
        """
        for constant in tile.constants:
            if Value(constant.node, 0) not in self.tensors:
                self.emit(constant)
        what = "the result"
        made: dict[int, tuple[Any, ...]] = {}
        written: dict[int, Any] = {}
        name = f"{tile.rule.id}/{tile.node.name}"
        flow = FlowEmission(self._scope, self._shapes, self.run, name, _metadata(tile))

        def tensor_of(tensor: AbstractTensor) -> Any:
            return self._resolve(tensor, made, written)

        try:
            for call in tile.plan.calls:
                if isinstance(call, LayerCall):
                    what = f"{call.layer.name} at {call.span}"
                    made[id(call)] = _CallEmission(self, call, tile, made, written).add()
                    continue
                assert not isinstance(call, OpCall)
                what = f"what is called at {call.span}"
                made[id(call)] = flow.add(call, tensor_of)
            what = "the result"
            for index, output in enumerate(tile.plan.outputs):
                if output is not None:
                    value = Value(tile.node, index)
                    tensor = self._resolve(output, made, written)
                    self._check_result(value, tensor)
                    self.tensors[value] = tensor
        except (Rejected, Failed) as refused:
            raise TileRejected(tile, what, str(refused)) from refused
        except TileRejected:
            raise
        except ConversionError as error:
            raise TileRejected(tile, what, str(error)) from error

    def run(self, call: GraphCall, tensor: Callable[[AbstractTensor], Any]) -> tuple[Any, ...]:
        """Replay the subgraph of an op; returns its outputs.

        Raises:
            Rejected, TileRejected: TensorRT does not take a part of it.
        """
        graph = call.graph
        inner = Emitter(self._scope, self._shapes, graph.mirror, refittable=self._refittable, around=self)
        with self._shapes.inside(), self._written.inside():
            for node, operand in zip(graph.inputs, call.values["operands"], strict=True):
                inner._enter(node, tensor(operand) if isinstance(operand, AbstractTensor) else operand)
            for tile in graph.tiles:
                inner.emit(tile)
            return tuple(map(inner._result, graph.outputs, call.outputs))

    def _enter(self, node: fx.Node, operand: Any) -> None:
        """Say what an input of a graph is: a tensor of the network, or a symbolic int."""
        if self._mirror.is_size(node):
            symbol = normal(node.meta["val"])
            if isinstance(symbol, sympy.Symbol) and symbol != operand:
                self._shapes.assign(symbol, operand)
            return
        value = Value(node, 0)
        self.tensors[value] = operand
        for axis, size in enumerate(self._mirror.shape(value)):
            self._shapes.define(size, operand, axis)

    def _result(self, result: Any, promised: CallOutput) -> Any:
        if isinstance(result, Value):
            return self.tensor(result)
        assert promised.dtype is not None
        return self._shapes.scalar(result, promised.dtype)

    def tensor(self, value: Value) -> Any:
        """The network tensor of a value: computed before, or a constant.

        Raises:
            Rejected: TensorRT does not take the constant.
        """
        tensor = self.tensors.get(value)
        if tensor is None:
            if not self._mirror.is_const(value):
                raise ConversionError(f"{value!r} is neither computed by this network nor one of its inputs")
            tensor = self._scope.constant(self._mirror.constant(value), value.node.name, self._origin(value))
            self.tensors[value] = tensor
        return tensor

    def _converted(self, value: Value, dtype: torch.dtype | None) -> Any:
        """A constant in another dtype, into which it is converted here and not by TensorRT."""
        assert dtype is not None
        origin = self._origin(value)
        if origin is not None:
            origin = Origin(f"{origin.name}.{str(dtype).removeprefix('torch.')}", origin.recipe.converted(dtype))
        return self._scope.constant(self._mirror.constant(value).to(dtype), value.node.name, origin)

    def _origin(self, value: Value) -> Origin | None:
        """Where a constant comes from, None where no refit replaces it."""
        if not self._refittable:
            return None
        if value not in self._origins:
            how, origin = recipe(self._mirror, value), None
            if how.sources:
                tensor = self._mirror.constant(value)
                if tensor.dtype in _REPLACEABLE:
                    origin = Origin(value.node.name + (f".{value.index}" if value.index else ""), how)
                else:
                    self.frozen.append(FrozenConstant(how, digest(tensor)))
            self._origins[value] = origin
        return self._origins[value]

    def _resolve(self, tensor: AbstractTensor, made: dict[int, tuple[Any, ...]], written: dict[int, Any]) -> Any:
        if isinstance(tensor, CallOutput):
            return made[id(tensor.call)][tensor.index]
        if isinstance(tensor, Captured):
            if tensor.dtype != self._mirror.dtype(tensor.value) and self._mirror.is_const(tensor.value):
                return self._converted(tensor.value, tensor.dtype)
            return self.tensor(tensor.value)
        assert isinstance(tensor, ConstantTensor)
        if id(tensor) not in written:
            written[id(tensor)] = self._written.tensor(tensor)
        return written[id(tensor)]

    def weights(self, tensor: AbstractTensor) -> Any:
        """``trt.Weights`` of a constant."""
        if isinstance(tensor, Captured):
            return self._scope.weights.weights(self._mirror.constant(tensor.value), self._origin(tensor.value))
        if isinstance(tensor, ConstantTensor):
            return self._scope.weights.weights(self._written.host(tensor))
        raise ConversionError("weights must be constant, not the output of a layer")

    def _check_result(self, value: Value, tensor: Any) -> None:
        fake = self._mirror.fake(value)
        if isinstance(fake, torch.SymInt):
            self._shapes.define(normal(fake), tensor, None)
        if not isinstance(fake, torch.Tensor):
            return
        shape = self._mirror.shape(value)
        self.check(shape, fake.dtype, tuple(tensor.shape), tensor.dtype, "the graph")
        for axis, size in enumerate(shape):
            if not isinstance(size, int):
                self._shapes.define(size, tensor, axis)

    def check(
        self, shape: Sequence[Int] | None, dtype: torch.dtype | None, got: tuple[int, ...], data_type: Any, who: str
    ) -> None:
        """Compare what was promised with what TensorRT infers.

        Raises:
            Mismatch: they differ.
        """
        if dtype is not None and tensorrt_dtype(dtype) != data_type:
            found = torch_dtype(data_type) or data_type
            raise Mismatch(f"TensorRT infers {found}, but {who} says {dtype}")
        if shape is not None and mismatch(shape, got, self._agrees):
            raise Mismatch(f"TensorRT infers shape {list(got)}, but {who} says [{', '.join(map(str, shape))}]")

    def _agrees(self, wanted: Int, got: int) -> bool:
        return self._mirror.sizes.compare("==", wanted, got) is not False


class _CallEmission:
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
        layer, scope = call.layer, emitter._scope
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
        return _metadata(self._tile, str(self._call.span))

    # ------------------------------------------------------------ values

    def _argument(self, argument: Any) -> Any:
        """A constructor argument: a parameter by name, or an expression over parameters."""
        if isinstance(argument, tree.Name) and argument.name in self._parameters:
            parameter = self._parameters[argument.name]
            value = self._call.values.get(parameter.name)
            return self._constructor_value(parameter, value)
        value = evaluate(argument, dict(self._call.values), self._emitter._context)
        if isinstance(value, AbstractTensor):
            return self._tensor(value)
        if not is_known(value):
            raise Rejected(f"{value} must be known when the network is built")
        return _plain(value)

    def _constructor_value(self, parameter: tree.Parameter, value: Any) -> Any:
        kind = _kind(parameter)
        if kind == "weights":
            return self._emitter._scope.weights.empty(self._weights_dtype()) if value is None else self._weights(value)
        if kind == "tensor" and parameter.slot is not None:
            if value is not None:
                self._slots[parameter.slot] = self._tensor(value)
            return self._emitter._scope.weights.empty(self._weights_dtype())
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
        shapes = self._emitter._shapes
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
            shapes = self._emitter._shapes
            return shapes.vector(value) if kind == "ints" else shapes.scalar(value, torch.int32)
        if kind == "axes":
            return sum(1 << axis for axis in set(value))
        if isinstance(value, torch.dtype):
            return tensorrt_dtype(value)
        if isinstance(value, EnumToken):
            return _member(kind, value.name)
        return _plain(value)

    def _tensor(self, value: AbstractTensor) -> Any:
        return self._emitter._resolve(value, self._made, self._written)

    def _weights(self, value: AbstractTensor) -> Any:
        return self._emitter.weights(value)

    def _weights_dtype(self) -> torch.dtype:
        """The dtype of the layer's first tensor: empty weights must not contradict it."""
        for value in self._call.values.values():
            if isinstance(value, AbstractTensor) and value.dtype is not None:
                return value.dtype
        return torch.float32


def _metadata(tile: Tile, where: str | None = None) -> dict[str, str]:
    """The metadata of the layers of a tile."""
    return {
        "rule": tile.rule.id,
        "where": where or tile.rule.where,
        "node": tile.node.name,
        "module": provenance.module_path(tile.node),
        "source": provenance.model_line(tile.node),
    }


class _InSlot:
    """Marks a parameter that travels through an input slot instead of a property."""


_IN_SLOT = _InSlot()


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


__all__ = ["Emitter", "TileRejected"]
