"""Graphs of test lines: macros of ops, traced as PyTorch traces the functions that ``torch.cond`` is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from engine import sizes as symints
from engine.dsl import tree
from engine.errors import EngineError
from engine.evaluator import Context, evaluate
from engine.evaluator.plan import AbstractTensor, CallOutput, OpCall
from engine.graph.arguments import map_values, split
from engine.graph.mirror import Mirror


def function(
    macro: tree.Macro, macros: Mapping[str, tree.Macro], mode: FakeTensorMode, shape_env: ShapeEnv
) -> Callable[..., Any]:
    """A macro of ops as a function of tensors and sizes."""
    context = Context(Mirror(fx.Graph(), {}, mode, shape_env), {}, macros)

    def run(*operands: Any) -> Any:
        if len(operands) != len(macro.parameters):
            raise EngineError(f"{macro.name} takes {len(macro.parameters)} operands, got {len(operands)}")
        tensors: dict[int, Any] = {}
        names: dict[str, Any] = {}
        for parameter, operand in zip(macro.parameters, operands, strict=True):
            if isinstance(operand, torch.Tensor):
                stand_in = AbstractTensor(tuple(map(symints.normal, operand.shape)), operand.dtype)
                tensors[id(stand_in)] = operand
                names[parameter.name] = stand_in
            else:
                names[parameter.name] = symints.normal(operand) if isinstance(operand, torch.SymInt) else operand
        return _replayed(evaluate(macro.body, names, context), tensors, {}, context.mirror)

    return run


def _replayed(value: Any, tensors: Mapping[int, Any], made: dict[int, Any], mirror: Mirror) -> Any:
    """The result of a macro, with tensors for abstract ones."""
    if isinstance(value, list | tuple):
        return tuple(_replayed(item, tensors, made, mirror) for item in value)
    if not isinstance(value, AbstractTensor):
        return mirror.symint(value) if symints.is_symint(value) else value
    if not isinstance(value, CallOutput):
        return tensors[id(value)]
    call = value.call
    assert isinstance(call, OpCall)
    if id(call) not in made:
        arguments = [_replayed(item, tensors, made, mirror) for item in call.arguments]
        positional, keywords = split(call.op, [list(a) if isinstance(a, tuple) else a for a in arguments])
        made[id(call)] = call.op(*positional, **keywords)
    outputs = made[id(call)]
    return outputs[value.index] if isinstance(outputs, tuple | list) else outputs


def traced(op: Any, arguments: Sequence[Any]) -> fx.GraphModule:
    """The graph of one call of an op that takes graphs.

    Args:
        arguments: fake tensors, functions, numbers, and lists of them.

    Returns:
        A module whose inputs are the tensors among the arguments, in order.
    """
    leaves: list[torch.Tensor] = []
    map_values(arguments, lambda leaf: leaves.append(leaf) if isinstance(leaf, torch.Tensor) else None)

    def call(*tensors: torch.Tensor) -> Any:
        rest = iter(tensors)
        given = [
            map_values(item, lambda leaf: next(rest) if isinstance(leaf, torch.Tensor) else leaf) for item in arguments
        ]
        return op(*given)

    module: fx.GraphModule = make_fx(call)(*leaves)
    return module


__all__ = ["function", "traced"]
