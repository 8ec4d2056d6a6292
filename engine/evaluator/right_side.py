"""Calls on the right side of a rule: TensorRT layers and ATen ops, as plan nodes with inferred outputs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import sympy
import torch

from engine import sizes as symints
from engine.dsl import operators
from engine.dsl.rule import EnumToken, Layer
from engine.dsl.tree import Parameter, Type
from engine.dtypes import CLASSES, DTYPE_NAMES, DTYPES, INT4
from engine.errors import Span
from engine.evaluator.bounds import Failed
from engine.evaluator.builtins import describe
from engine.evaluator.plan import AbstractTensor, CallOutput, Captured, ConstantTensor, LayerCall, OpCall, map_tensors
from engine.graph.canonical import canonical_arguments

if TYPE_CHECKING:
    from engine.evaluator.evaluation import Context, Env

# Types of layer parameters whose values must be settled before the network is built.
_NUMBERS = {"int", "float", "bool", "scalar", "axes"}

# What `tensor` stands for in the declaration of a layer: what networks compute with. Layers that take more name it.
_INNER = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8, torch.bool})


# Further dtypes that outputs can have: quantised ones, and u8 where a result leaves the network.
_BOUNDARY = frozenset({torch.uint8, INT4, torch.float8_e4m3fn, torch.float8_e8m0fnu})


@functools.cache
def _dtypes_of(names: tuple[str, ...]) -> tuple[frozenset[torch.dtype], frozenset[torch.dtype]]:
    """The dtypes that a declared type admits, and those of them that it names one by one; none if it has no dtypes."""
    named = frozenset(DTYPES[name] for name in names if name in DTYPES)
    classes = [_INNER if name == "tensor" else frozenset(CLASSES[name]) & _INNER for name in names if name in CLASSES]
    return (named.union(*classes), named) if named != {torch.bool} or classes else (frozenset(), named)


@functools.cache
def resolve(name: str) -> tuple[str, torch._ops.OpOverload]:
    """Full overload name and overload of ``aten.linear`` or ``aten.add.Tensor``.

    Raises:
        Failed: there is no such op.
    """
    found = operators.find(name)
    if found is None:
        raise Failed(f"unknown op {name}")
    namespace, packet, overload = found.name.split(".")
    return found.name, getattr(getattr(getattr(torch.ops, namespace), packet), overload)


# ------------------------------------------------------------------------------------------ layers


def layer_call(layer: Layer, positional: list[Any], keywords: dict[str, Any], span: Span, env: Env) -> Any:
    """A plan node for a TensorRT layer; a tuple of outputs if the layer has several.

    Raises:
        Failed: an argument is not of the declared kind, e.g. a ``static`` one is only known at run time.
    """
    inputs = [parameter for parameter in layer.parameters if not parameter.attribute]
    if len(positional) > len(inputs):
        raise Failed(f"{layer.name} takes {len(inputs)} inputs, got {len(positional)}", span)
    given = {parameter.name: value for parameter, value in zip(inputs, positional, strict=False)} | keywords
    values: dict[str, Any] = {}
    for parameter in layer.parameters:
        if parameter.name in given:
            value = given[parameter.name]
        elif parameter.default is not None:
            value = env.scope(values).evaluate(parameter.default)
        elif parameter.type is not None and parameter.type.optional:
            value = None
        else:
            raise Failed(f"{layer.name} needs `{parameter.name}`", span)
        values[parameter.name] = _checked(layer, parameter, value, span, env.context)
    call = LayerCall(layer, values, span)
    scope = env.scope(values)
    if layer.unless is not None and scope.evaluate(layer.unless) is not False:
        raise Failed(
            f"TensorRT builds an engine that computes wrong results for {layer.name} with these operands", span
        )
    call.outputs = tuple(
        _layer_output(call, index, layer.gives[index] if index < len(layer.gives) else None, scope)
        for index in range(len(layer.outputs))
    )
    return call.outputs[0] if len(call.outputs) == 1 else call.outputs


def _layer_output(call: LayerCall, index: int, gives: Any, scope: Env) -> CallOutput:
    if gives is None:
        return CallOutput(None, None, call, index)
    try:
        shape = scope.evaluate(gives[0])
    except Failed:
        inputs = [item for value in call.values.values() for item in (value if isinstance(value, tuple) else (value,))]
        if not any(isinstance(item, AbstractTensor) and item.shape is None for item in inputs):
            raise
        shape = None  # computed from a tensor whose shape only TensorRT knows
    dtype = scope.evaluate(gives[1])
    if dtype is not None and dtype not in _INNER and dtype not in _BOUNDARY:
        raise Failed(f"TensorRT has no {DTYPE_NAMES.get(dtype, dtype)} tensors", call.span)
    return CallOutput(None if shape is None else tuple(shape), dtype, call, index)


def _checked(layer: Layer, parameter: Parameter, value: Any, span: Span, context: Context) -> Any:
    """``value`` as the parameter's declared type, tuples for lists."""
    kind = parameter.type
    if kind is None or value is None:
        if value is None and kind is not None and not kind.optional and parameter.default is None:
            raise Failed(f"{layer.name} needs `{parameter.name}`", span)
        return value
    what = f"`{parameter.name}` of {layer.name}"
    if kind.element is not None:
        if not isinstance(value, list | tuple):
            raise Failed(f"{what} is a list, got {describe(value)}", span)
        value = tuple(_element(what, kind.element, item, span, context) for item in value)
    else:
        value = _element(what, kind, value, span, context)
    runtime_capable = (parameter.slot is not None and kind.modifier != "static") or not parameter.attribute
    if not runtime_capable and not symints.is_known(value):
        raise Failed(f"{what} must be known when compiling, it is {_symbolic(value, context)}", span)
    return value


def _typed(what: str, kind: Type, value: Any, span: Span, context: Context) -> Any:
    """``value`` if it is a tensor of a dtype that the declaration admits."""
    if not isinstance(value, AbstractTensor):
        raise Failed(f"{what} is a tensor, got {describe(value)}", span)
    admitted, named = _dtypes_of(kind.names)
    if value.dtype is None or (isinstance(value, Captured) and value.dtype not in _INNER | _BOUNDARY):
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


def _element(what: str, kind: Type, value: Any, span: Span, context: Context) -> Any:
    names = set(kind.names)
    if _dtypes_of(kind.names)[0]:
        return _typed(what, kind, value, span, context)
    if "weights" in names or (kind.modifier == "const" and isinstance(value, AbstractTensor)):
        if isinstance(value, Captured) and not context.mirror.is_const(value.value):
            raise Failed(f"{what} must be constant, `{value.value.node.name}` is not", span)
        if not isinstance(value, Captured | ConstantTensor):
            raise Failed(f"{what} must be constant, got {describe(value)}", span)
        return value
    if "axes" in names:
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    if names & _NUMBERS:
        if isinstance(value, AbstractTensor) or not isinstance(value, bool | int | float | sympy.Expr):
            raise Failed(f"{what} is a number, got {describe(value)}", span)
        return value
    if "dtype" in names:
        if not isinstance(value, torch.dtype):
            raise Failed(f"{what} is a dtype, got {describe(value)}", span)
        return value
    if "str" in names:
        if not isinstance(value, str):
            raise Failed(f"{what} is a string, got {describe(value)}", span)
        return value
    if isinstance(value, AbstractTensor | EnumToken):
        return value
    raise Failed(f"{what} is {'|'.join(kind.names)}, got {describe(value)}", span)


def _symbolic(value: Any, context: Context) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(context.sizes.describe(item) for item in value) + "]"
    return context.sizes.describe(value)


# ------------------------------------------------------------------------------------------ ops


def op_call(name: str, positional: list[Any], keywords: dict[str, Any], span: Span, context: Context) -> Any:
    """A plan node for an ATen op, its outputs inferred on fake tensors; a tuple if the op has several outputs.

    Raises:
        Failed: there is no such op, or it rejects these arguments.
    """
    _, op = resolve(name)
    try:
        arguments = _placed(op, _canonical(op, positional, keywords, span), context)
        call = OpCall(op, arguments, span)
        call.fake = infer(call, context)
    except Failed:
        raise
    except Exception as error:  # kernels written in Python raise all kinds of errors
        first = str(error).strip().splitlines()
        raise Failed(f"{name} rejects these arguments: {first[0] if first else type(error).__name__}", span) from error
    outputs = call.fake if isinstance(call.fake, list | tuple) else (call.fake,)
    call.outputs = tuple(
        CallOutput(None, None, call, index)
        if fake is None
        else CallOutput(tuple(map(symints.normal, fake.shape)), fake.dtype, call, index)
        for index, fake in enumerate(outputs)
    )
    return call.outputs if isinstance(call.fake, list | tuple) else call.outputs[0]


def _canonical(
    op: torch._ops.OpOverload, positional: list[Any], keywords: dict[str, Any], span: Span
) -> tuple[Any, ...]:
    schema = op._schema.arguments
    if len(positional) > len(schema):
        raise Failed(f"{op} takes {len(schema)} arguments, got {len(positional)}", span)
    count = sum(not argument.kwarg_only for argument in schema)
    keywords = keywords | {schema[i].name: positional[i] for i in range(count, len(positional))}
    args, kwargs = canonical_arguments(op, tuple(positional[:count]), keywords, rank=_rank)
    return (*args, *kwargs.values())


def _placed(op: torch._ops.OpOverload, arguments: tuple[Any, ...], context: Context) -> tuple[Any, ...]:
    """The arguments, with the graph's device where an op without operands would make its tensor on the CPU."""
    schema = op._schema.arguments
    if any("Tensor" in str(argument.real_type) for argument in schema):
        return arguments
    return tuple(
        context.mirror.device if argument.name == "device" and value is None else value
        for argument, value in zip(schema, arguments, strict=True)
    )


def _rank(value: Any) -> int | None:
    if isinstance(value, AbstractTensor):
        return None if value.shape is None else len(value.shape)
    return None


def infer(call: OpCall, context: Context) -> Any:
    """Fake outputs of an op call, from the fakes of its operands."""
    if call.fake is not None:
        return call.fake
    mirror = context.mirror

    def known(tensor: AbstractTensor) -> Any:
        if isinstance(tensor, Captured):
            return tensor.value
        if isinstance(tensor, CallOutput) and isinstance(tensor.call, OpCall):
            outputs = infer(tensor.call, context)
            return outputs[tensor.index] if isinstance(outputs, list | tuple) else outputs
        with mirror.fake_mode:
            return torch.empty(tuple(map(mirror.symint, tensor.shape or ())), dtype=tensor.dtype, device=mirror.device)

    return mirror.infer(call.op, map_tensors(call.arguments, known))


__all__ = ["infer", "layer_call", "op_call", "resolve"]
