"""Plans: what a rule would emit, as data.

Evaluating the right side of a rule has no effect on any graph or network.  It yields *abstract
tensors*: captured values of the matched graph, constants, sizes, and outputs of *calls*.  The
rewriter commits a plan of :class:`OpCall` to the FX graph; the network emitter replays a plan of
:class:`LayerCall` into an ``INetworkDefinition``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import fx

from engine.dsl.rule import Layer
from engine.errors import Span
from engine.graph.mirror import Mirror, Value
from engine.sizes import Int


class TiledSubgraph(Protocol):
    """A graph that an op runs, lowered and tiled; :class:`engine.lowering.subgraphs.LoweredSubgraph` is one.

    Attributes:
        mirror: the graph.
        inputs: placeholders for the operands that are not constants of the model, in order.
    """

    mirror: Mirror
    inputs: tuple[fx.Node, ...]

    @property
    def outputs(self) -> tuple[Any, ...]:
        """What the graph returns: values, and symbolic ints or truths for sizes."""

    @property
    def tiles(self) -> tuple[Any, ...]:
        """Its tiles, in graph order."""

    @property
    def reasons(self) -> Mapping[fx.Node, str]:
        """Why nodes have no tile."""


@dataclass(slots=True, eq=False)
class AbstractTensor:
    """A tensor that a rule talks about.

    Attributes:
        shape: symbolic ints, or None when the layer that makes it declares no shape.
        dtype: torch dtype, or None likewise.
    """

    shape: tuple[Int, ...] | None
    dtype: torch.dtype | None


@dataclass(slots=True, eq=False)
class Captured(AbstractTensor):
    """A value of the matched graph."""

    value: Value


@dataclass(slots=True, eq=False)
class ConstantTensor(AbstractTensor):
    """A tensor written out by the rule: ``full(0, x)``, ``scalar(1.0, f32)``.

    ``number`` fills the whole shape; ``numbers`` lists the elements of a 1-d tensor.  Both may hold symbolic
    ints that are computed at run time, and so may the shape.
    """

    number: float | bool | Int | None = None
    numbers: tuple[float | bool | Int, ...] | None = None


@dataclass(slots=True, eq=False)
class LayerCall:
    """A TensorRT layer to be added.

    Attributes:
        layer: its declaration.
        values: every parameter by name, defaults filled; tensors are :class:`AbstractTensor`, lists of them
            tuples, ints symbolic, enum members :class:`engine.dsl.rule.EnumToken`, dtypes ``torch.dtype``.
        span: the call in the rule's text.
    """

    layer: Layer
    values: dict[str, Any]
    span: Span
    outputs: tuple[CallOutput, ...] = ()


@dataclass(slots=True, eq=False)
class LoopStart:
    """The entry of a TensorRT loop; its outputs are the states of a trip, then the elements of that trip.

    Attributes:
        values: ``trips`` (symbolic int, None where only a condition ends the loop), and the tuples ``states`` (of the
            first trip) and ``elements`` (tensors that are run through along ``axis``).
        reverse: whether the last elements come first.
        span: the call in the rule's text.
    """

    values: dict[str, Any]
    axis: int
    reverse: bool
    span: Span
    outputs: tuple[CallOutput, ...] = ()


@dataclass(slots=True, eq=False)
class LoopEnd:
    """The exit of a TensorRT loop; its outputs are the last states, then what the trips gave, along ``axis``.

    Attributes:
        values: the tuples ``entry`` (outputs of the start), ``following`` (states of the next trip) and ``given``
            (what each trip gives), and ``condition`` (a bool tensor; where it is false that trip is not made), None
            where the loop only counts.
    """

    start: LoopStart
    values: dict[str, Any]
    outputs: tuple[CallOutput, ...] = ()

    @property
    def span(self) -> Span:
        """The call in the rule's text."""
        return self.start.span


@dataclass(slots=True, eq=False)
class ConditionalStart:
    """The entry of a TensorRT if-conditional; its outputs are the operands as its two sides read them.

    Attributes:
        values: ``condition`` (a bool tensor without dims) and the tuple ``operands``.
        span: the call in the rule's text.
    """

    values: dict[str, Any]
    span: Span
    outputs: tuple[CallOutput, ...] = ()


@dataclass(slots=True, eq=False)
class ConditionalEnd:
    """The exit of a TensorRT if-conditional; its outputs are those of the side that the condition selects.

    Attributes:
        values: the tuples ``entry`` (outputs of the start), ``then`` and ``otherwise`` (what the sides give), and
            ``condition``.
    """

    start: ConditionalStart
    values: dict[str, Any]
    outputs: tuple[CallOutput, ...] = ()

    @property
    def span(self) -> Span:
        """The call in the rule's text."""
        return self.start.span


@dataclass(slots=True, eq=False)
class GraphCall:
    """A graph of the model that is run on operands: the tiles of that graph, replayed.

    Attributes:
        graph: the graph, with its tiles.
        values: the tuple ``operands``, one for each of the graph's inputs: a tensor, or a symbolic int for a size.
        span: the call in the rule's text.
    """

    graph: TiledSubgraph
    values: dict[str, Any]
    span: Span
    outputs: tuple[CallOutput, ...] = ()


@dataclass(slots=True, eq=False)
class OpCall:
    """An ATen op to be inserted.

    Attributes:
        op: the overload.
        arguments: schema order, defaults filled; tensors are :class:`AbstractTensor`, ints symbolic.
    """

    op: torch._ops.OpOverload
    arguments: tuple[Any, ...]
    span: Span
    outputs: tuple[CallOutput, ...] = ()
    fake: Any = None  # inferred outputs, filled when something asks


@dataclass(slots=True, eq=False)
class CallOutput(AbstractTensor):
    """One output of a call."""

    call: Call
    index: int


FlowCall: TypeAlias = LoopStart | LoopEnd | ConditionalStart | ConditionalEnd | GraphCall
Call: TypeAlias = LayerCall | FlowCall | OpCall


@dataclass(frozen=True, slots=True)
class Plan:
    """The outputs a rule emits for its roots (None where it emits none), in order, with the calls they need."""

    outputs: tuple[AbstractTensor | None, ...]
    calls: tuple[Call, ...] = field(default=())


_NESTED = (list, tuple, dict)


def tensors(value: Any) -> Iterator[AbstractTensor]:
    """Every abstract tensor in a nested argument."""
    if isinstance(value, AbstractTensor):
        yield value
    elif isinstance(value, _NESTED):
        for item in value.values() if isinstance(value, dict) else value:
            if isinstance(item, AbstractTensor):
                yield item
            elif isinstance(item, _NESTED):  # most items are numbers, which need no generator of their own
                yield from tensors(item)


def leaves(tensor: AbstractTensor) -> Iterator[AbstractTensor]:
    """What layers make a tensor of: tensors that are no layer's output, or the tensor itself if it is none."""
    if isinstance(tensor, CallOutput) and isinstance(tensor.call, LayerCall):
        for operand in tensors(tensor.call.values):
            yield from leaves(operand)
    else:
        yield tensor


def map_tensors(value: Any, function: Callable[[AbstractTensor], Any]) -> Any:
    """Replace every abstract tensor in a nested argument."""
    if isinstance(value, AbstractTensor):
        return function(value)
    if isinstance(value, list | tuple):
        return tuple(map_tensors(item, function) for item in value)
    return value


def calls_of(outputs: Sequence[AbstractTensor | None]) -> tuple[Call, ...]:
    """The calls that outputs depend on, operands first, each once, in a deterministic order."""
    order: list[Call] = []
    seen: set[int] = set()

    def visit(tensor: AbstractTensor) -> None:
        if not isinstance(tensor, CallOutput) or id(tensor.call) in seen:
            return
        seen.add(id(tensor.call))
        arguments = tensor.call.arguments if isinstance(tensor.call, OpCall) else tensor.call.values
        for operand in tensors(arguments):
            visit(operand)
        order.append(tensor.call)

    for output in outputs:
        if output is not None:
            visit(output)
    return tuple(order)
