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

from engine.conversion.constants import WrittenConstants
from engine.conversion.dtypes import tensorrt_dtype, torch_dtype
from engine.conversion.flow import FlowEmission
from engine.conversion.layer_emission import LayerEmission, metadata
from engine.conversion.scope import Mismatch, NetworkScope, Rejected, mismatch
from engine.conversion.shapes import ShapeTensors
from engine.conversion.weights import Origin
from engine.dsl.rule import EnumToken
from engine.dsl.tree import MadeBy
from engine.dtypes import DTYPES
from engine.errors import ConversionError
from engine.evaluator import Context
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
from engine.sizes import Int, normal
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
    an op has an emitter of its own, which shares all that with the one ``around`` it.  ``scope``, ``shapes`` and
    ``context`` serve the emission of its layers.
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
        self._outputs: dict[Value, AbstractTensor] = {}  # what made those of them that tiles gave
        self.frozen: list[FrozenConstant] = [] if around is None else around.frozen
        self._origins: dict[Value, Origin | None] = {}
        self._refittable = refittable
        self.scope = scope
        self.shapes = shapes
        self._mirror = mirror
        self.context = Context(mirror, {}, {})
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
        flow = FlowEmission(self.scope, self.shapes, self.run, name, metadata(tile))

        def tensor_of(tensor: AbstractTensor) -> Any:
            return self.resolve(tensor, made, written)

        try:
            for call in tile.plan.calls:
                if isinstance(call, LayerCall):
                    what = f"{call.layer.name} at {call.span}"
                    made[id(call)] = LayerEmission(self, call, tile, made, written).add()
                    continue
                assert not isinstance(call, OpCall)
                what = f"what is called at {call.span}"
                made[id(call)] = flow.add(call, tensor_of)
            what = "the result"
            for index, output in enumerate(tile.plan.outputs):
                if output is not None:
                    value = Value(tile.node, index)
                    tensor = self.resolve(output, made, written)
                    self._check_result(value, tensor)
                    self.tensors[value] = tensor
                    self._outputs[value] = output
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
        inner = Emitter(self.scope, self.shapes, graph.mirror, refittable=self._refittable, around=self)
        with self.shapes.inside(), self._written.inside():
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
                self.shapes.assign(symbol, operand)
            return
        value = Value(node, 0)
        self.tensors[value] = operand
        for axis, size in enumerate(self._mirror.shape(value)):
            self.shapes.define(size, operand, axis)

    def _result(self, result: Any, promised: CallOutput) -> Any:
        if isinstance(result, Value):
            return self.tensor(result)
        assert promised.dtype is not None
        return self.shapes.scalar(result, promised.dtype)

    def tensor(self, value: Value) -> Any:
        """The network tensor of a value: computed before, or a constant.

        Raises:
            Rejected: TensorRT does not take the constant.
        """
        tensor = self.tensors.get(value)
        if tensor is None:
            if not self._mirror.is_const(value):
                raise ConversionError(f"{value!r} is neither computed by this network nor one of its inputs")
            tensor = self.scope.constant(self._mirror.constant(value), value.node.name, self._origin(value))
            self.tensors[value] = tensor
        return tensor

    def _converted(self, value: Value, dtype: torch.dtype | None) -> Any:
        """A constant in another dtype, into which it is converted here and not by TensorRT."""
        assert dtype is not None
        origin = self._origin(value)
        if origin is not None:
            origin = Origin(f"{origin.name}.{str(dtype).removeprefix('torch.')}", origin.recipe.converted(dtype))
        return self.scope.constant(self._mirror.constant(value).to(dtype), value.node.name, origin)

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

    def resolve(self, tensor: AbstractTensor, made: dict[int, tuple[Any, ...]], written: dict[int, Any]) -> Any:
        """The network tensor of an operand: ``made`` holds outputs of calls, ``written`` constants, by identity."""
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

    def was_made_by(self, tensor: AbstractTensor, layers: Sequence[MadeBy]) -> bool:
        """Whether the first of these layers gave a tensor, the next one an operand of that, and so on."""
        if not layers or (layers[0].optional and self.was_made_by(tensor, layers[1:])):
            return True
        while isinstance(tensor, Captured) and tensor.value in self._outputs:
            tensor = self._outputs[tensor.value]
        call = tensor.call if isinstance(tensor, CallOutput) else None
        if not isinstance(call, LayerCall) or call.layer.name != layers[0].layer:
            return False
        members = [member.name for member in layers[0].members]
        values = call.values.values()
        if members and not any(isinstance(value, EnumToken) and value.name in members for value in values):
            return False
        operands = [value for value in values if isinstance(value, AbstractTensor)]
        return len(layers) == 1 or any(self.was_made_by(operand, layers[1:]) for operand in operands)

    def weights(self, tensor: AbstractTensor) -> Any:
        """``trt.Weights`` of a constant."""
        if isinstance(tensor, Captured):
            return self.scope.weights.weights(self._mirror.constant(tensor.value), self._origin(tensor.value))
        if isinstance(tensor, ConstantTensor):
            return self.scope.weights.weights(self._written.host(tensor))
        raise ConversionError("weights must be constant, not the output of a layer")

    def _check_result(self, value: Value, tensor: Any) -> None:
        fake = self._mirror.fake(value)
        if isinstance(fake, torch.SymInt):
            self.shapes.define(normal(fake), tensor, None)
        if not isinstance(fake, torch.Tensor):
            return
        shape = self._mirror.shape(value)
        self.check(shape, fake.dtype, tuple(tensor.shape), tensor.dtype, "the graph")
        for axis, size in enumerate(shape):
            if not isinstance(size, int):
                self.shapes.define(size, tensor, axis)

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


__all__ = ["Emitter", "TileRejected"]
