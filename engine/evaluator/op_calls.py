"""Calls of ATen ops on the right side of a rule: plan nodes with outputs inferred on fake tensors."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from engine import sizes as symints
from engine.dsl import operators
from engine.errors import Span
from engine.evaluator.failures import Failed
from engine.evaluator.plan import AbstractTensor, CallOutput, Captured, OpCall, map_tensors
from engine.graph.canonical import canonical_arguments

if TYPE_CHECKING:
    from engine.evaluator.context import Context


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


__all__ = ["infer", "op_call", "resolve"]
