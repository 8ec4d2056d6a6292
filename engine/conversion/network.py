"""Networks: a segment's tiles as an ``INetworkDefinition`` with inputs, outputs and an optimization profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sympy
import torch

from engine.conversion.call_log import CallLog
from engine.conversion.dtypes import tensorrt_dtype
from engine.conversion.emitter import Emitter, TileRejected
from engine.conversion.profile import ProfileRanges, optimization_profile, with_opt_shapes
from engine.conversion.scope import Mismatch, NetworkScope, Rejected, quote
from engine.conversion.shapes import ShapeTensors
from engine.conversion.weights import WeightStore, refits_natively
from engine.errors import ConversionError, EngineError
from engine.graph.mirror import Mirror, Value
from engine.graph.names import unique
from engine.graph.tensor_spec import TensorSpec
from engine.sizes import Int, is_real
from engine.tensorrt import load
from engine.tensorrt.logger import Logger, capturing_logger
from engine.weights.frozen_constants import FrozenConstant
from engine.weights.recipe_encoding import dtype_name, encode

if TYPE_CHECKING:
    from engine.partitioner.tile import Tile


@dataclass
class BuiltNetwork:
    """A finished network and what must live until its engine is built.

    Attributes:
        name: of the segment.
        network, builder, profile: TensorRT objects; ``profile`` is None for static networks.
        more_profiles: the profiles after the first.
        input_names: bindings of the segment's inputs, then of ``scalars``, in order.
        output_names: bindings of the segment's outputs, in order.
        input_specs, output_specs: shapes in symbolic ints, and dtypes; a size input is its symbolic int.
        scalars: numbers that the network takes as extra inputs without dims: sizes as INT64, which shapes may follow
            from, and numbers that are not whole as FLOAT.
        weights: host memory that TensorRT reads while it builds.
        layer_names: of every layer, in network order.
        call_log: what the network was told.
        frozen: constants of the model that the engine holds for good.
        settings: of the compilation.
    """

    name: str
    network: Any
    builder: Any
    profile: Any
    logger: Logger
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    input_specs: tuple[TensorSpec | Int, ...]
    output_specs: tuple[TensorSpec, ...]
    scalars: tuple[sympy.Expr, ...]
    weights: WeightStore
    layer_names: tuple[str, ...]
    settings: Any
    call_log: CallLog = field(default_factory=CallLog)
    frozen: tuple[FrozenConstant, ...] = ()
    more_profiles: tuple[Any, ...] = ()

    @property
    def weight_name_map(self) -> dict[str, Any] | None:
        """Per weight that a refit may replace, by its name in the engine: shape, dtype and recipe, as JSON values."""
        if self.settings.immutable_weights:
            return None
        return {
            name: {
                "shape": list(weight.shape),
                "dtype": dtype_name(weight.tensor.dtype),
                "recipe": encode(weight.recipe),
            }
            for name, weight in self.weights.named.items()
        }


def empty_network(name: str, settings: Any) -> BuiltNetwork:
    """A network that was told nothing yet."""
    logger = capturing_logger()
    builder = load().Builder(logger)
    network = builder.create_network(_creation_flags())
    network.name = name
    return BuiltNetwork(
        name=name,
        network=network,
        builder=builder,
        profile=None,
        logger=logger,
        input_names=(),
        output_names=(),
        input_specs=(),
        output_specs=(),
        scalars=(),
        weights=WeightStore(),
        layer_names=(),
        settings=settings,
    )


def emit_network(
    mirror: Mirror,
    tiles: Sequence[Tile],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    ranges: Mapping[sympy.Symbol, Sequence[int]],
    settings: Any,
    *,
    name: str = "engine",
    profiles: Sequence[Mapping[sympy.Symbol, Sequence[int]]] = (),
) -> BuiltNetwork:
    """Emit tiles into a new, strongly typed network.

    Args:
        tiles: in topological order.
        inputs: values that the network gets from outside, in binding order.
        outputs: values that it returns, in binding order.
        ranges: symbol -> (min, opt, max) for the optimization profile.
        settings: an :class:`engine.settings.CompilationSettings`.
        profiles: ``ranges`` of each optimization profile, where there are several.

    Raises:
        ConversionError: TensorRT rejects a layer or disagrees with the graph about a result.  An error about a
            tile has ``node`` (its root) and ``rule``.
    """
    if settings.opt_shape_profile:
        profiles = with_opt_shapes(profiles or [ranges])
    return _Segment(mirror, ranges, settings, name).emit(tiles, inputs, outputs, profiles)


class _Segment:
    def __init__(self, mirror: Mirror, ranges: Mapping[sympy.Symbol, Sequence[int]], settings: Any, name: str) -> None:
        trt = load()
        self.mirror = mirror
        self.settings = settings
        self.ranges = ProfileRanges(mirror.sizes, ranges)
        self.logger = capturing_logger()
        self.builder = trt.Builder(self.logger)
        self.network = self.builder.create_network(_creation_flags())
        self.network.name = name
        self.scope = NetworkScope(self.network, self.logger)
        self.scalars: dict[sympy.Expr, str] = {}
        self.scalar_inputs: dict[sympy.Expr, Any] = {}
        self.shapes = ShapeTensors(self.scope, self._add_scalar)
        self.emitter = Emitter(self.scope, self.shapes, mirror, refittable=not settings.immutable_weights)
        self.names: set[str] = set()

    def emit(
        self,
        tiles: Sequence[Tile],
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        profiles: Sequence[Mapping[sympy.Symbol, Sequence[int]]] = (),
    ) -> BuiltNetwork:
        # Names of outputs are fixed, so they are taken before inputs look for theirs.
        output_names = tuple(unique(f"output{index}", self.names) for index in range(len(outputs)))
        input_names = tuple(self._add_input(value, tiles) for value in inputs)
        for tile in tiles:
            self.emitter.emit(tile)
        origin = {Value(tile.node, index): tile for tile in tiles for index in range(len(tile.plan.outputs))}
        for value, name in zip(outputs, output_names, strict=True):
            self._mark(value, name, origin.get(value))
        self._name_weights()
        tensors = [(n, self.mirror.shape(value)) for n, value in zip(input_names, inputs, strict=True)]
        # What only values depend on is a tensor of numbers to TensorRT, whose range it does not take.
        scalars = [(n, size) for size, n in self.scalars.items() if self.scalar_inputs[size].is_shape_tensor]
        each = [ProfileRanges(self.mirror.sizes, ranges) for ranges in profiles] or [self.ranges]
        made = [optimization_profile(self.builder, tensors, scalars, ranges) for ranges in each]
        return BuiltNetwork(
            name=self.network.name,
            network=self.network,
            builder=self.builder,
            profile=made[0],
            more_profiles=tuple(profile for profile in made[1:] if profile is not None),
            logger=self.logger,
            input_names=input_names + tuple(self.scalars.values()),
            output_names=output_names,
            input_specs=(*map(self._spec, inputs), *self.scalars),
            output_specs=tuple(map(self._spec, outputs)),
            scalars=tuple(self.scalars),
            weights=self.scope.weights,
            layer_names=tuple(self.scope.layer_names),
            settings=self.settings,
            call_log=self.scope.call_log,
            frozen=tuple(self.emitter.frozen),
        )

    def _name_weights(self) -> None:
        """Give the weights their names; TensorRT takes them once the weights are used."""
        weights = self.scope.weights
        for name, held in weights.named.items() if refits_natively(self.settings) else ():
            with self.logger.gather() as messages:
                given = self.network.set_weights_name(weights.pointer(held.tensor), name)
            if not given:
                raise ConversionError(f"TensorRT rejected the name of the weights {name!r}: {quote(messages)}")

    def _spec(self, value: Value) -> TensorSpec:
        return TensorSpec(self.mirror.shape(value), self.mirror.dtype(value))

    def _add_input(self, value: Value, tiles: Sequence[Tile]) -> str:
        name = value.node.name + (f"_{value.index}" if value.index else "")
        name, shape = unique(name, self.names), self.mirror.shape(value)
        try:
            tensor = self._network_input(name, self.mirror.dtype(value), shape)
        except ConversionError as error:
            # An input that cannot be is the matter of whoever reads it.
            for tile in tiles:
                if value in tile.operands():
                    raise TileRejected(tile, f"the input {name}", str(error)) from error
            raise
        for axis, size in enumerate(shape):
            if not isinstance(size, int):
                # Dims of one name are equal, which TensorRT cannot know otherwise.
                with self.scope.listening():
                    tensor.set_dimension_name(axis, str(size))
                self.scope.call_log.dimension(tensor, axis, str(size))
                self.shapes.define(size, tensor, axis)
        self.emitter.tensors[value] = tensor
        return name

    def _add_scalar(self, expression: sympy.Expr) -> Any:
        """A size that no input tells, as an input of its own; once, whichever graphs ask for it."""
        if expression not in self.scalar_inputs:
            try:
                self.mirror.size_node(expression)
            except EngineError as error:
                raise Rejected(str(error)) from error
            name = self.scalars[expression] = unique(f"sym_{expression}".replace(" ", ""), self.names)
            dtype = torch.float32 if is_real(expression) else torch.int64
            self.scalar_inputs[expression] = self._network_input(name, dtype, ())
        return self.scalar_inputs[expression]

    def _network_input(self, name: str, dtype: torch.dtype, shape: Sequence[Int]) -> Any:
        dims = tuple(size if isinstance(size, int) else -1 for size in shape)
        with self.logger.gather() as messages:
            try:
                tensor = self.network.add_input(name, tensorrt_dtype(dtype), dims)
            except TypeError as error:  # the bindings take no more dims than a network may have
                raise ConversionError(f"TensorRT does not support {len(dims)} dims, which input {name} has") from error
        self.scope.call_log.input(tensor)
        if tensor is None:
            raise ConversionError(f"TensorRT rejected the input {name}: {quote(messages)}")
        return tensor

    def _mark(self, value: Value, name: str, tile: Tile | None) -> None:
        try:
            self._mark_output(value, name)
        except (Rejected, ConversionError) as error:
            if tile is not None:
                raise TileRejected(tile, f"output {name}", str(error)) from error
            raise ConversionError(f"output {name} of {self.network.name}: {error}") from error

    def _mark_output(self, value: Value, name: str) -> None:
        tensor, dtype = self.emitter.tensor(value), self.mirror.dtype(value)
        if tensor.dtype != tensorrt_dtype(dtype):
            raise Mismatch(f"TensorRT infers {tensor.dtype}, but the graph says {dtype}")
        # A binding needs a tensor of its own.
        if tensor.is_network_input or tensor.is_network_output or self.mirror.is_const(value):
            tensor = self.scope.add("add_identity", (tensor,), f"outputs/{name}").get_output(0)
        with self.scope.listening():
            tensor.name = name
            self.network.mark_output(tensor)
            self.scope.call_log.output(tensor)


def _creation_flags() -> int:
    """Networks are strongly typed: by flag where there is one, always where there is none."""
    flags = load().NetworkDefinitionCreationFlag
    names = [name for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if hasattr(flags, name)]
    return sum(1 << int(getattr(flags, name)) for name in names)


__all__ = ["BuiltNetwork", "emit_network", "empty_network"]
