"""A plan as text, to tell whether two rules would emit the same for one match."""

from __future__ import annotations

import dataclasses
from typing import Any

from engine.evaluator import Failure
from engine.evaluator.plan import AbstractTensor, CallOutput, Captured, ConstantTensor, LayerCall, OpCall, Plan


def plan_text(plan: Plan | Failure) -> str | None:
    """What a plan emits, without places in rules; None where the rule does not apply."""
    if isinstance(plan, Failure):
        return None
    numbers = {id(call): number for number, call in enumerate(plan.calls)}

    def shown(value: Any) -> str:
        if isinstance(value, Captured):
            return f"{value.value.node.name}:{value.value.index}"
        if isinstance(value, ConstantTensor):
            return f"constant({value.number}, {value.numbers}, {value.shape}, {value.dtype})"
        if isinstance(value, CallOutput):
            return f"%{numbers.get(id(value.call), '?')}.{value.index}"
        if isinstance(value, AbstractTensor):
            return f"tensor({value.shape}, {value.dtype})"
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(shown, value))}]"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{name}: {shown(item)}' for name, item in value.items())}}}"
        return f"{type(value).__name__} {value}"

    lines = []
    for call in plan.calls:
        if isinstance(call, OpCall):
            lines.append(f"{call.op}{shown(call.arguments)}")
        else:
            fields = [f.name for f in dataclasses.fields(call) if f.name not in ("span", "outputs", "layer", "start")]
            name = call.layer.name if isinstance(call, LayerCall) else type(call).__name__
            lines.append(f"{name}{shown([getattr(call, field) for field in fields])}")
    return "\n".join([*lines, shown(plan.outputs)])


__all__ = ["plan_text"]
