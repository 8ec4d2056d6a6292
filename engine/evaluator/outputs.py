"""Values of the graph as rules see them, and outputs of right sides as the graph needs them."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from engine.dsl.rule import Rule
from engine.evaluator.builtins import describe
from engine.evaluator.context import Context
from engine.evaluator.failures import Failed, Failure
from engine.evaluator.plan import AbstractTensor, Captured, Plan
from engine.graph.arguments import symint as number
from engine.graph.mirror import Mirror, Value
from engine.matcher.match import Match

_LISTS = (list, tuple)


def abstract(value: Any, mirror: Mirror) -> Any:
    """A captured value as rules see it: an abstract tensor for a tensor, lists for tuples, numbers as they are."""
    if isinstance(value, Value):
        fake = mirror.fake(value)
        if not isinstance(fake, torch.Tensor):
            return number(fake)  # a size that an op with graphs returns, or an output that is not there
        return Captured(mirror.shape(value), fake.dtype, value)
    if isinstance(value, _LISTS):
        return [abstract(item, mirror) for item in value]
    return value


def result(root: fx.Node, mirror: Mirror) -> Any:
    """The value that a rule replaces; a tuple if the root has several outputs."""
    val = root.meta.get("val")
    if isinstance(val, _LISTS):
        return tuple(abstract(Value(root, index), mirror) for index in range(len(val)))
    return abstract(Value(root, 0), mirror)


def aligned(emitted: Any, rule: Rule, match: Match, context: Context) -> tuple[AbstractTensor | None, ...]:
    """Outputs of the plan in the order of the roots or of the root's outputs."""

    def output(value: Any) -> AbstractTensor | None:
        if value is None or isinstance(value, AbstractTensor):
            return value
        if isinstance(value, tuple) and value and isinstance(value[0], AbstractTensor):
            return value[0]  # a multi-output call stands for its first output
        raise Failed(f"the right side is {describe(value)} where a tensor is needed", rule.emit.span)

    if len(match.roots) > 1:
        if not isinstance(emitted, list | tuple) or len(emitted) != len(match.roots):
            raise Failed(f"the right side must emit {len(match.roots)} tensors", rule.emit.span)
        return tuple(map(output, emitted))
    val = match.roots[0].meta.get("val")
    if not isinstance(val, list | tuple):
        return (output(emitted),)
    pattern = rule.roots[0]
    if pattern.outputs is None and isinstance(emitted, AbstractTensor):
        return tuple(emitted if index == pattern.output else None for index in range(len(val)))
    if not isinstance(emitted, list | tuple) or len(emitted) > len(val):
        raise Failed(f"the right side must emit {len(val)} outputs", rule.emit.span)
    outputs = [output(value) for value in emitted]
    return tuple(outputs + [None] * (len(val) - len(outputs)))


def disagreement(plan: Plan, rule: Rule, match: Match, context: Context) -> Failure | None:
    """Why a plan cannot replace a match: an output has another dtype, or certainly another shape, than in PyTorch."""
    mirror = context.mirror
    several = len(match.roots) > 1
    for index, output in enumerate(plan.outputs):
        root = match.roots[index if several else 0]
        value = Value(root, rule.roots[index].output if several else index)
        fake = mirror.fake(value)
        if output is None or not isinstance(fake, torch.Tensor) or mirror.unused(value):
            continue
        shape = output.shape
        wanted = mirror.shape(value)
        if output.dtype not in (None, fake.dtype):
            what = "dtype"
        elif shape is not None and (
            len(shape) != len(wanted)
            or any(context.sizes.compare("==", a, b) is False for a, b in zip(shape, wanted, strict=True))
        ):
            what = "shape"
        else:
            continue
        given, pytorch = describe(output), describe(abstract(value, context.mirror))
        return Failure(
            f"the rule emits {given}, which has another {what} than PyTorch's {pytorch}", rule.emit.span, guarded=True
        )
    return None


__all__ = ["abstract", "aligned", "disagreement", "result"]
