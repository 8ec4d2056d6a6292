"""Graphs of the model on the right side of a rule: running one, and running one of several by conditions.

A graph that an op takes is run by replaying its tiles.  Operands that are constants of the model stay constants
inside, so that the rules that want constant weights find them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from engine import sizes as symints
from engine.errors import EngineError, Span
from engine.evaluator.builtins import describe
from engine.evaluator.failures import Failed
from engine.evaluator.plan import (
    AbstractTensor,
    Call,
    CallOutput,
    Captured,
    ConditionalEnd,
    ConditionalStart,
    ConstantTensor,
    GraphCall,
    TiledSubgraph,
)
from engine.graph.mirror import Value
from engine.graph.provenance import model_line
from engine.graph.subgraph import Subgraph
from engine.sizes import Int

if TYPE_CHECKING:
    from engine.evaluator.context import Context


def run(context: Context, graph: Any, operands: Any, span: Span) -> list[CallOutput]:
    """Run a graph on operands.

    Args:
        operands: tensors, and symbolic ints where the graph takes sizes.

    Returns:
        The results of the graph; sizes and truths among them as tensors without dims, int64 and bool.

    Raises:
        Failed: the operands are not what the graph takes, or a node in it has no tile.
    """
    if not isinstance(graph, Subgraph):
        raise Failed(f"`run` takes a graph, got {describe(graph)}", span)
    if not isinstance(operands, list | tuple):
        raise Failed(f"`run` takes a list of operands, got {describe(operands)}", span)
    if context.inner is None:
        raise Failed(f"{graph!r} cannot be run here: only `convert` rules run graphs", span)
    try:
        inner = context.inner(graph, tuple(_constant(context, operand) for operand in operands))
    except EngineError as error:
        raise Failed(f"{graph!r}: {error}", span) from error
    for node, reason in inner.reasons.items():
        line = model_line(node)
        where = f", {line}" if line else ""
        raise Failed(f"{node.name} ({inner.mirror.op(node)}{where}) inside {graph.name} has no tile: {reason}", span)
    passed = tuple(operand for operand in operands if _constant(context, operand) is None)
    known = _known_sizes(context, graph, inner, passed, span)
    call = GraphCall(inner, {"operands": passed}, span)
    call.outputs = tuple(_output(call, index, item, known) for index, item in enumerate(inner.outputs))
    return list(call.outputs)


def _constant(context: Context, operand: Any) -> fx.Node | None:
    """The node of a constant of the model, None for anything else."""
    if not isinstance(operand, Captured):
        return None
    node = operand.value.node
    return node if node.op == "get_attr" and context.mirror.is_const(operand.value) else None


def _known_sizes(
    context: Context, graph: Subgraph, inner: TiledSubgraph, operands: tuple[Any, ...], span: Span
) -> dict[sympy.Symbol, Int | None]:
    """The symbols that stand for sizes inside a graph only -> what they are outside, None if that is not known there.

    Raises:
        Failed: an operand is not what the graph takes.
    """
    known: dict[sympy.Symbol, Int | None] = {}
    for node, operand in zip(inner.inputs, operands, strict=True):
        what = f"input {node.name} of {graph.name}"
        if inner.mirror.is_size(node):
            symbol = symints.normal(node.meta["val"])
            if isinstance(operand, AbstractTensor):
                if not isinstance(symbol, sympy.Symbol) or operand.shape != () or operand.dtype != torch.int64:
                    raise Failed(f"{what} is the size {symbol}, but got {describe(operand)}", span)
                known[symbol] = None
            elif not symints.is_symint(operand):
                raise Failed(f"{what} is the size {symbol}, but got {describe(operand)}", span)
            elif isinstance(symbol, sympy.Symbol) and symbol != operand:
                known[symbol] = operand
            continue
        value = Value(node, 0)
        if not isinstance(operand, AbstractTensor):
            raise Failed(f"{what} is a tensor, but got {describe(operand)}", span)
        shape, dtype = inner.mirror.shape(value), inner.mirror.dtype(value)
        wanted = describe(AbstractTensor(shape, dtype))
        if operand.dtype not in (None, dtype):
            raise Failed(f"{what} is {wanted}, but got {describe(operand)}", span)
        if operand.shape is None:
            continue
        if len(operand.shape) != len(shape):
            raise Failed(f"{what} is {wanted}, but got {describe(operand)}", span)
        for inside, outside in zip(shape, operand.shape, strict=True):
            if isinstance(inside, sympy.Symbol) and free_unbacked_symbols(inside) and inside != outside:
                known.setdefault(inside, outside)
            elif context.sizes.compare("==", inside, outside) is False:
                raise Failed(f"{what} is {wanted}, but got {describe(operand)}", span)
    return known


def _output(call: GraphCall, index: int, item: Any, known: dict[sympy.Symbol, Int | None]) -> CallOutput:
    if not isinstance(item, Value):
        truth = isinstance(item, bool) or not isinstance(item, int | sympy.Expr)
        return CallOutput((), torch.bool if truth else torch.int64, call, index)
    mirror = call.graph.mirror
    shape = mirror.shape(item)
    sizes = {symbol: size for symbol, size in known.items() if size is not None}
    outside = tuple(symints.normal(size.xreplace(sizes)) if isinstance(size, sympy.Basic) else size for size in shape)
    hidden = any(isinstance(size, sympy.Basic) and size.free_symbols & set(known) for size in outside)
    return CallOutput(None if hidden else outside, mirror.dtype(item), call, index)


def conditional(context: Context, conditions: Any, graphs: Any, operands: Any, span: Span) -> list[CallOutput]:
    """Run the first graph whose condition holds, and the last one if none does, all on the same operands.

    Of several conditions each is asked on the other side of the one before.  A condition on sizes that is settled when
    compiling has no if-conditional: it picks its graph, or leaves it out.

    Args:
        conditions: one for each graph but the last: bool tensors without dims, truths, or relations of sizes.

    Raises:
        Failed: a condition is none, a graph cannot be run, or the graphs give different kinds of tensors.
    """
    for name, given in (("conditions", conditions), ("graphs", graphs), ("operands", operands)):
        if not isinstance(given, list | tuple):
            raise Failed(f"`conditional` takes a list of {name}, got {describe(given)}", span)
    if len(graphs) != len(conditions) + 1:
        raise Failed(f"{len(conditions)} conditions choose among {len(conditions) + 1} graphs, not {len(graphs)}", span)
    asked: list[AbstractTensor] = []
    left = []
    for condition, graph in zip(conditions, graphs, strict=False):
        known = _condition(context, condition, span)
        if known is not False:
            left.append(graph)
        if known is True:
            break
        if isinstance(known, AbstractTensor):
            asked.append(known)
    else:
        left.append(graphs[-1])
    return _chosen(context, asked, left, operands, span)


def _condition(context: Context, condition: Any, span: Span) -> AbstractTensor | bool:
    """A condition as a tensor, or what it is where that is settled."""
    if isinstance(condition, sympy.Basic):
        settled = context.sizes.decide(condition)
        condition = ConstantTensor((), torch.bool, number=condition) if settled is None else settled  # type: ignore[arg-type]
    if isinstance(condition, bool):
        return condition
    if not isinstance(condition, AbstractTensor) or condition.dtype != torch.bool or condition.shape != ():
        raise Failed(f"a condition is a bool tensor without dims, got {describe(condition)}", span)
    return condition


def _chosen(
    context: Context, conditions: Sequence[AbstractTensor], graphs: Sequence[Any], operands: Sequence[Any], span: Span
) -> list[CallOutput]:
    if not conditions:
        return run(context, graphs[0], operands, span)
    first, *others = conditions
    entering = [o for o in (*operands, *others) if isinstance(o, AbstractTensor) and _constant(context, o) is None]
    start = ConditionalStart({"condition": first, "operands": tuple(entering)}, span)
    start.outputs = tuple(CallOutput(o.shape, o.dtype, start, index) for index, o in enumerate(entering))
    inside = dict(zip(map(id, entering), start.outputs, strict=True))
    given = [inside.get(id(operand), operand) for operand in operands]
    then = run(context, graphs[0], given, span)
    otherwise = _chosen(context, [inside.get(id(each), each) for each in others], graphs[1:], given, span)
    return _joined(context, start, tuple(then), tuple(otherwise))


def _joined(
    context: Context, start: ConditionalStart, then: tuple[CallOutput, ...], otherwise: tuple[CallOutput, ...]
) -> list[CallOutput]:
    span = start.span
    if len(then) != len(otherwise):
        raise Failed(f"the graphs of a conditional return {len(then)} and {len(otherwise)} tensors", span)
    for one, other in zip(then, otherwise, strict=True):
        shapes = list(zip(one.shape or (), other.shape or (), strict=False))
        ranks = len({len(side.shape) for side in (one, other) if side.shape is not None})
        if (
            one.dtype != other.dtype
            or ranks > 1
            or any(context.sizes.compare("==", a, b) is not True for a, b in shapes)
        ):
            raise Failed(f"the graphs of a conditional return {describe(one)} and {describe(other)}", span)
    values: dict[str, Any] = {"entry": start.outputs, "then": then, "otherwise": otherwise}
    end: Call = ConditionalEnd(start, values | {"condition": start.values["condition"]})
    end.outputs = tuple(CallOutput(side.shape, side.dtype, end, index) for index, side in enumerate(then))
    return list(end.outputs)


__all__ = ["conditional", "run"]
