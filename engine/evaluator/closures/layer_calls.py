"""Calls of TensorRT layers: plan nodes with inferred outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy
import torch

from engine import sizes as symints
from engine.dsl.rule import EnumToken, Layer
from engine.dsl.tree import Parameter, Type
from engine.dtypes import CLASSES, DTYPE_NAMES, DTYPES, INT4
from engine.errors import Span
from engine.evaluator.builtins import describe
from engine.evaluator.closures.code import Code, Compile
from engine.evaluator.failures import Failed
from engine.evaluator.plan import AbstractTensor, CallOutput, Captured, ConstantTensor, LayerCall

if TYPE_CHECKING:
    from engine.evaluator.context import Context

# Types of layer parameters whose values must be settled before the network is built.
_NUMBERS = {"int", "float", "bool", "scalar", "axes"}

# What `tensor` stands for in the declaration of a layer: what networks compute with. Layers that take more name it.
_INNER = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8, torch.bool})


# Further dtypes that outputs can have: quantised ones, and u8 where a result leaves the network.
_BOUNDARY = frozenset({torch.uint8, INT4, torch.float8_e4m3fn, torch.float8_e8m0fnu})
_CARRIED = _INNER | _BOUNDARY

# A value as the declared type; fails where it is not of that.
_Held = Callable[[Any, Span, "Context"], Any]


@functools.cache
def _dtypes_of(names: tuple[str, ...]) -> tuple[frozenset[torch.dtype], frozenset[torch.dtype]]:
    """The dtypes that a declared type admits, and those of them that it names one by one; none if it has no dtypes."""
    named = frozenset(DTYPES[name] for name in names if name in DTYPES)
    classes = [_INNER if name == "tensor" else frozenset(CLASSES[name]) & _INNER for name in names if name in CLASSES]
    return (named.union(*classes), named) if named != {torch.bool} or classes else (frozenset(), named)


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    default: Code | None
    optional: bool
    held: _Held


class CompiledLayer:
    """A declared layer, ready to be called."""

    __slots__ = ("_gives", "_inputs", "_layer", "_parameters", "_unless")

    def __init__(self, layer: Layer, compile: Compile) -> None:
        self._layer = layer
        self._inputs = [parameter.name for parameter in layer.parameters if not parameter.attribute]
        self._parameters = [
            _Parameter(
                parameter.name,
                None if parameter.default is None else compile(parameter.default),
                parameter.type is not None and parameter.type.optional,
                _held(layer, parameter),
            )
            for parameter in layer.parameters
        ]
        self._unless = None if layer.unless is None else compile(layer.unless)
        gives = [None if pair is None else (compile(pair[0]), compile(pair[1])) for pair in layer.gives]
        self._gives = (gives + [None] * len(layer.outputs))[: len(layer.outputs)]

    def __call__(self, positional: list[Any], keywords: dict[str, Any], span: Span, context: Context) -> Any:
        """A plan node for the layer; a tuple of outputs if it has several.

        Raises:
            Failed: an argument is not of the declared kind, e.g. a ``static`` one is only known at run time.
        """
        layer = self._layer
        if len(positional) > len(self._inputs):
            raise Failed(f"{layer.name} takes {len(self._inputs)} inputs, got {len(positional)}", span)
        given = dict(zip(self._inputs, positional, strict=False)) | keywords
        values: dict[str, Any] = {}
        for parameter in self._parameters:
            name = parameter.name
            if name in given:
                value = given[name]
            elif parameter.default is not None:
                value = parameter.default(values, context)
            elif parameter.optional:
                value = None
            else:
                raise Failed(f"{layer.name} needs `{name}`", span)
            values[name] = parameter.held(value, span, context)
        if self._unless is not None and self._unless(values, context) is not False:
            raise Failed(
                f"TensorRT builds an engine that computes wrong results for {layer.name} with these operands", span
            )
        call = LayerCall(layer, values, span)
        call.outputs = tuple([_output(call, index, gives, context) for index, gives in enumerate(self._gives)])
        return call.outputs[0] if len(call.outputs) == 1 else call.outputs


def _output(call: LayerCall, index: int, gives: tuple[Code, Code] | None, context: Context) -> CallOutput:
    if gives is None:
        return CallOutput(None, None, call, index)
    try:
        shape = gives[0](call.values, context)
    except Failed:
        inputs = [item for value in call.values.values() for item in (value if isinstance(value, tuple) else (value,))]
        if not any(isinstance(item, AbstractTensor) and item.shape is None for item in inputs):
            raise
        shape = None  # computed from a tensor whose shape only TensorRT knows
    dtype = gives[1](call.values, context)
    if dtype is not None and dtype not in _CARRIED:
        raise Failed(f"TensorRT has no {DTYPE_NAMES.get(dtype, dtype)} tensors", call.span)
    return CallOutput(None if shape is None else tuple(shape), dtype, call, index)


# ------------------------------------------------------------------------------------------ arguments


def _held(layer: Layer, parameter: Parameter) -> _Held:
    """Gives values of a parameter as its declared type, tuples for lists."""
    kind, what = parameter.type, f"`{parameter.name}` of {layer.name}"
    if kind is None:
        return lambda value, span, context: value
    required = not kind.optional and parameter.default is None
    runtime_capable = (parameter.slot is not None and kind.modifier != "static") or not parameter.attribute
    convert = _list(what, kind.element) if kind.element is not None else _element(what, kind)

    def held(value: Any, span: Span, context: Context) -> Any:
        if value is None:
            if required:
                raise Failed(f"{layer.name} needs `{parameter.name}`", span)
            return None
        value = convert(value, span, context)
        if not runtime_capable and not symints.is_known(value):
            raise Failed(f"{what} must be known when compiling, it is {_symbolic(value, context)}", span)
        return value

    return held


def _list(what: str, element: Type) -> _Held:
    convert = _element(what, element)

    def held(value: Any, span: Span, context: Context) -> Any:
        if not isinstance(value, list | tuple):
            raise Failed(f"{what} is a list, got {describe(value)}", span)
        return tuple([convert(item, span, context) for item in value])

    return held


def _element(what: str, kind: Type) -> _Held:
    names = set(kind.names)
    if _dtypes_of(kind.names)[0]:
        return functools.partial(_tensor, what, *_dtypes_of(kind.names))
    if "weights" in names:
        return functools.partial(_constant, what)
    plain = _plain(what, kind)
    if kind.modifier != "const":
        return plain

    def held(value: Any, span: Span, context: Context) -> Any:
        if isinstance(value, AbstractTensor):
            return _constant(what, value, span, context)
        return plain(value, span, context)

    return held


def _tensor(
    what: str,
    admitted: frozenset[torch.dtype],
    named: frozenset[torch.dtype],
    value: Any,
    span: Span,
    context: Context,
) -> Any:
    """``value`` if it is a tensor of a dtype that the declaration admits."""
    if not isinstance(value, AbstractTensor):
        raise Failed(f"{what} is a tensor, got {describe(value)}", span)
    if value.dtype is None or (isinstance(value, Captured) and value.dtype not in _CARRIED):
        return value  # tiling keeps dtypes that TensorRT lacks out of networks, and knows what to advise
    if value.dtype not in admitted:
        raise Failed(f"{what} cannot be {DTYPE_NAMES.get(value.dtype, value.dtype)}", span)
    if value.dtype not in (torch.int8, torch.uint8):
        return value
    captured = value.value if isinstance(value, Captured) else None
    if value.dtype == torch.uint8 and (captured is None or captured.node.op != "placeholder"):
        raise Failed(f"{what} can be u8 only as an input of the graph", span)
    constant = isinstance(value, ConstantTensor) or (captured is not None and context.mirror.is_const(captured))
    if constant and value.dtype not in named:
        raise Failed(f"{what} cannot be a constant of {DTYPE_NAMES[value.dtype]}", span)
    return value


def _constant(what: str, value: Any, span: Span, context: Context) -> Any:
    """``value`` if it is a tensor that is known when compiling."""
    if isinstance(value, Captured) and not context.mirror.is_const(value.value):
        raise Failed(f"{what} must be constant, `{value.value.node.name}` is not", span)
    if not isinstance(value, Captured | ConstantTensor):
        raise Failed(f"{what} must be constant, got {describe(value)}", span)
    return value


def _plain(what: str, kind: Type) -> _Held:
    """Of parameters that are no tensors: numbers, axes, dtypes, strings and members of enums."""
    names = set(kind.names)
    if "axes" in names:
        return lambda value, span, context: tuple(value) if isinstance(value, list | tuple) else (value,)
    if names & _NUMBERS:
        return functools.partial(_of_class, f"{what} is a number", (bool, int, float, sympy.Expr))
    if "dtype" in names:
        return functools.partial(_of_class, f"{what} is a dtype", (torch.dtype,))
    if "str" in names:
        return functools.partial(_of_class, f"{what} is a string", (str,))
    return functools.partial(_of_class, f"{what} is {'|'.join(kind.names)}", (AbstractTensor, EnumToken))


def _of_class(wanted: str, classes: tuple[type, ...], value: Any, span: Span, context: Context) -> Any:
    if not isinstance(value, classes):
        raise Failed(f"{wanted}, got {describe(value)}", span)
    return value


def _symbolic(value: Any, context: Context) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(context.sizes.describe(item) for item in value) + "]"
    return context.sizes.describe(value)


__all__ = ["CompiledLayer"]
