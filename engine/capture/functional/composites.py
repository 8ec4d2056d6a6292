"""Composite ops that may give their operand, taken apart one by one.

PyTorch keeps composite ops whole that say what they do.  Those whose results may or may not be views (``reshape``,
``to``, ``contiguous``), or that write while a model is trained (``dropout``), it always takes apart, and rules are
written for what they consist of.  Each is run once on the fake operands of a node, under a mode that writes down what
it calls; calls of the same op on operands of the same shapes, strides and dtypes are made after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import fx
from torch._ops import OpOverload
from torch.utils._pytree import tree_map

from engine.capture.functional.views import Lies, is_composite, place_of_operand
from engine.rewriter.decomposition import Call, Recorder, Undecomposable, without_new_guards
from engine.sizes import normal


class Ref(NamedTuple):
    """A tensor that a step takes: output ``place`` of a step (None: its one output), or an operand where that is -1."""

    step: int
    place: int | None


class Size(NamedTuple):
    """A number that a step takes: an expression over the symbols of sizes."""

    expression: Any


class Step(NamedTuple):
    """One call, with :class:`Ref` for tensors and :class:`Size` for symbolic numbers, and what it gives."""

    op: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    fake: Any


class Steps(NamedTuple):
    """What a composite op calls; ``result`` is what it gives (all outputs of a step where its place is None)."""

    steps: tuple[Step, ...]
    result: Ref


@cache
def is_taken_apart(op: Any) -> bool:
    """Whether an op is a composite that may give its operand, and is not for a rule to take whole."""
    if not isinstance(op, OpOverload) or op._schema.is_mutable or not is_composite(op) or op in _WHOLE:
        return False
    views = any(argument.alias_info is not None for argument in op._schema.arguments)
    return views or torch.Tag.maybe_aliasing_or_mutating in op.tags


# What PyTorch takes apart because of what it does while a model is trained, and rules take.
_WHOLE = frozenset({torch.ops.aten.batch_norm.default})


class Composites:
    """Steps of composite ops, by what they depend on."""

    def __init__(self) -> None:
        self._known: dict[Any, Steps | None] = {}

    def steps(self, node: fx.Node) -> Steps | None:
        """What the op of a node calls; None where that cannot be said in steps.

        Raises:
            Undecomposable: the op reads the values of a tensor, which only another trace gives symbols.
        """
        operands = _tensors(node)
        key = (node.target, *_described((node.args, sorted(node.kwargs.items()))))
        if key not in self._known:
            self._known[key] = _recorded(node, operands)
        return self._known[key]

    def lies(self, node: fx.Node, operand: fx.Node) -> Lies:
        """How the result of a node lies in the memory of its operand, by what its op calls where it is taken apart."""
        try:
            steps = self.steps(node) if is_taken_apart(node.target) else None
        except Undecomposable:
            steps = None
        return Lies.UNKNOWN if steps is None else _lies_by_steps(steps, operands_of(node).index(operand))


def _lies_by_steps(steps: Steps, operand: int) -> Lies:
    """How what a composite op gives lies in the memory of one of its operands, by the schemas of what it calls.

    Args:
        operand: its place, as :class:`Ref` counts.
    """
    found, how = steps.result, Lies.THERE
    while found.step >= 0:
        step = steps.steps[found.step]
        results = step.op._schema.returns
        # A list of tensors is one result.
        result = results[found.place if found.place is not None and len(results) > 1 else 0]
        if result.alias_info is None:
            return Lies.APART
        place = place_of_operand(step.op)
        source = step.args[place] if place is not None and place < len(step.args) else None
        if not isinstance(source, Ref):
            return Lies.UNKNOWN
        found, how = source, Lies.WITHIN
    return how if found.place == operand else Lies.UNKNOWN


def operands_of(node: fx.Node) -> list[fx.Node]:
    """The tensors that a node takes, in the order that :class:`Ref` counts them."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), lambda each: _append(found, each))
    return found


def _append(found: list[fx.Node], node: fx.Node) -> fx.Node:
    if isinstance(node.meta.get("val"), torch.Tensor) and node not in found:
        found.append(node)
    return node


def _tensors(node: fx.Node) -> list[torch.Tensor]:
    return [operand.meta["val"] for operand in operands_of(node)]


def _described(value: Any) -> tuple[Any, ...]:
    """What the steps of an op depend on."""
    if isinstance(value, fx.Node):
        value = value.meta.get("val")
    if isinstance(value, torch.Tensor):
        numbers = (*value.shape, *value.stride(), value.storage_offset())
        return (value.dtype, value.device, value.is_conj(), value.is_neg(), *map(_number, numbers))
    if isinstance(value, list | tuple):
        return tuple(_described(each) for each in value)
    return type(value), _number(value)


def _number(value: Any) -> Any:
    return value.node.expr if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool) else value


def _recorded(node: fx.Node, operands: list[torch.Tensor]) -> Steps | None:
    from torch._dispatch.python import enable_python_dispatcher

    def fake(each: fx.Node) -> Any:
        return each.meta.get("val")

    # A tensor of its own for each: what is given back is told apart from the operand by its identity.
    mode = next((tensor.fake_mode for tensor in operands if hasattr(tensor, "fake_mode")), None)
    if mode is None:
        return None
    args, kwargs = tree_map(lambda each: fake(each) if isinstance(each, fx.Node) else each, (node.args, node.kwargs))
    recorder = Recorder()
    # What the trace asked of sizes it knows: that was asked for this op, too.
    asking = nullcontext() if mode.shape_env is None else without_new_guards(mode.shape_env)
    try:
        with torch.no_grad(), enable_python_dispatcher(), asking, mode, recorder:
            result = node.target.decompose(*args, **kwargs)  # type: ignore[union-attr]
    except Undecomposable:
        raise
    except Exception:
        # Whatever the op's own code raises: it stays whole, and is taken apart later, or by a rule.
        return None
    if result is NotImplemented:
        return None
    return _as_steps(recorder.calls, operands, result)


def _as_steps(calls: Sequence[Call], operands: list[torch.Tensor], result: Any) -> Steps | None:
    places: dict[int, Ref] = {id(tensor): Ref(-1, index) for index, tensor in enumerate(operands)}
    steps: list[Step] = []
    unknown = False

    def taken(value: Any) -> Any:
        nonlocal unknown
        if isinstance(value, torch.Tensor):
            unknown = unknown or id(value) not in places
            return places.get(id(value))
        return Size(normal(value)) if isinstance(value, torch.SymInt) else value

    for index, call in enumerate(calls):
        args, kwargs = tree_map(taken, (call.args, dict(call.kwargs)))
        steps.append(Step(call.op, args, kwargs, call.outputs))
        if isinstance(call.outputs, torch.Tensor):
            places.setdefault(id(call.outputs), Ref(index, None))
        else:
            for position, output in enumerate(call.outputs):
                places.setdefault(id(output), Ref(index, position))
    if isinstance(result, torch.Tensor):
        found = places.get(id(result))
    else:
        found = _whole(result, places, steps)
    return None if unknown or found is None else Steps(tuple(steps), found)


def _whole(result: Any, places: dict[int, Ref], steps: list[Step]) -> Ref | None:
    """The step whose outputs are all that an op gives, in their order."""
    refs = [places.get(id(each)) for each in result]
    first = refs[0] if refs else None
    if first is None or first.step < 0 or first.place is None or len(steps[first.step].fake) != len(refs):
        return None
    same = all(ref == Ref(first.step, index) for index, ref in enumerate(refs))
    return Ref(first.step, None) if same else None


__all__ = ["Composites", "Ref", "Size", "Step", "Steps", "is_taken_apart", "operands_of"]
