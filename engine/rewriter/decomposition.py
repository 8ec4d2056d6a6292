"""PyTorch's own decompositions, for ops that no rule takes.

A decomposition is Python code that calls smaller ops.  It runs once on the fake inputs of a node, under a
dispatch mode that writes down what it calls; the calls become nodes in front of the one they replace.  Sizes
that the code computes are symbolic expressions all along, so they need no tracing.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from engine import sizes
from engine.errors import EngineError
from engine.graph.arguments import map_values, split
from engine.graph.canonical import canonical_arguments
from engine.graph.mirror import Mirror, Value
from engine.graph.provenance import Provenance
from engine.graph.recurrence import is_recurrent
from engine.graph.subgraph import Subgraph
from engine.graph.symbolic.proofs import answers_of_calls
from engine.graph.symbolic.pytorch_logs import quiet_pytorch
from engine.graph.symbolic.roots import roots_of_sizes
from engine.observers import RewriteEvent, observed
from engine.rewriter.change import Change, disagreement, replace, text

NAME = "torch decomposition"
_WHERE = "torch._decomp"
_LOG = logging.getLogger("engine.rewriter")

# Ops that return their operand; without gradients and mutation they do nothing else.
_IDENTITIES = frozenset(
    {torch.ops.aten.detach.default, torch.ops.aten.alias.default, torch.ops.aten.lift_fresh.default}
)


class Undecomposable(Exception):
    """Why PyTorch cannot take a node apart."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of an op that returned tensors."""

    op: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every call that returns a tensor, of primitives the ATen calls behind them.

    An op that writes to a tensor raises, and so does one that reads data.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prims" and hasattr(func, "impl_aten"):
            with self:  # the ATen calls behind the primitive are what the rules know
                return func.impl_aten(*args, **kwargs)
        outputs = func(*args, **kwargs)
        if func._schema.is_mutable:
            raise _Mutation(func)
        if any(isinstance(item, torch.Tensor) for item in tree_flatten(outputs)[0]):
            self.calls.append(Call(func, args, kwargs, outputs))
        elif torch.Tag.data_dependent_output in func.tags:
            raise Undecomposable(f"its decomposition reads data ({func})")
        return outputs


class _Mutation(Exception):
    """A decomposition writes into a tensor."""


@functools.cache
def _table() -> dict[OpOverload, Callable[..., Any]]:
    """The core ATen decompositions."""
    from torch._decomp import core_aten_decompositions

    table: dict[OpOverload, Callable[..., Any]] = dict(core_aten_decompositions().items())  # type: ignore[no-untyped-call]
    table[torch.ops.aten.scaled_dot_product_attention.default] = _attention
    return table


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Attention in its parts, by the op that PyTorch itself computes it with where it has no fused kernel.

    This is no lowering of ours: it only names which of PyTorch's decompositions to use.  PyTorch's own entry (2.13)
    chooses a fused kernel by the device and dtype of the example: ``_scaled_dot_product_flash_attention_for_cpu`` on a
    CPU, and on a GPU ``_scaled_dot_product_flash_attention``, ``_efficient_attention`` or ``_cudnn_attention``, which
    have no decomposition and would stay in PyTorch, on that device.
    It cannot be a ``lower`` rule: those are applied before ``convert`` rules are tried, so that none of the ``convert``
    rules of attention would ever match.
    """
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        # PyTorch does this before it calls that op, which would add the booleans to the scores.
        attn_mask = torch.where(attn_mask, 0.0, float("-inf")).to(query.dtype)
    output: torch.Tensor = torch.ops.aten._scaled_dot_product_attention_math.default(
        query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )[0]
    return output


@functools.cache
def _graph_table() -> dict[HigherOrderOperator, Callable[..., Any]]:
    """The same for ops that run graphs."""
    from torch._higher_order_ops.flex_attention import flex_attention, math_attention

    # What PyTorch runs where it has no kernel: the graphs that change and mask scores, over all scores at once.
    return {flex_attention: math_attention}


def _decomposition(op: OpOverload | HigherOrderOperator) -> Callable[..., Any] | None:
    if isinstance(op, HigherOrderOperator):
        return _graph_table().get(op)
    found = _table().get(op)
    if found is not None:
        return found
    return op.decompose if op._can_decompose() else None


def has_decomposition(op: OpOverload | HigherOrderOperator) -> bool:
    """Whether PyTorch can take an op apart, for some arguments at least."""
    return _decomposition(op) is not None


def decompose(mirror: Mirror, node: fx.Node) -> list[fx.Node] | None:
    """Replace a node by PyTorch's decomposition of it.

    Returns:
        The new nodes in graph order; None if PyTorch has no decomposition, if it leads back to the op itself or to
        one it came from, or if it only holds for some of the sizes that the graph allows.
    """
    try:
        return list(expand(mirror, node).new)
    except Undecomposable as reason:
        _LOG.debug("%s stays: %s", node.name, reason)
        return None


def expand(mirror: Mirror, node: fx.Node) -> Change:
    """Like :func:`decompose`, with the whole change.

    Raises:
        Undecomposable: the node cannot be taken apart; it is as it was.
    """
    op = node.target
    if node.op != "call_function" or not isinstance(op, OpOverload | HigherOrderOperator):
        raise Undecomposable("only functional ops are decomposed")
    if isinstance(op, OpOverload) and op._schema.is_mutable:
        raise Undecomposable("only functional ops are decomposed")
    if is_recurrent(op):
        # 128 steps of a GRU took 102 s to compile; PyTorch runs them at once.
        raise Undecomposable(f"PyTorch would take {op} apart step by step")
    function = _decomposition(op)
    if function is None:
        raise Undecomposable(f"PyTorch has no decomposition of {op}")
    ancestors = tuple(dict.fromkeys((*node.meta.get("decomposed", ()), str(op))))
    if str(op) in node.meta.get("decomposed", ()):
        raise Undecomposable(f"it comes from the decomposition of {op}, and rules led back to it")
    calls, outputs = _traced(mirror, node, op, function)
    calls = _live(calls, outputs)
    for call in calls:
        if str(call.op) in ancestors:
            raise Undecomposable(f"the decomposition of {op} leads back to {call.op}")
    _check(mirror, node, outputs)
    before = {node.name: mirror.op(node)}
    with observed("rewrite", RewriteEvent, NAME, "torch._decomp", "decompose", before) as event:
        change = _splice(mirror, node, calls, outputs, ancestors)
        if event is not None:
            event.after = {item.name: mirror.op(item) for item in change.new}
    return change


def _traced(
    mirror: Mirror, node: fx.Node, op: OpOverload | HigherOrderOperator, function: Callable[..., Any]
) -> tuple[list[Call], tuple[Any, ...]]:
    """The calls that a decomposition makes, and what it returns per output of the node."""

    def fake(item: Any) -> Any:
        if isinstance(item, Value):
            return mirror.fake(item)
        if isinstance(item, Subgraph):
            return item.module
        return mirror.symint(item) if isinstance(item, sympy.Expr) else item

    arguments = mirror.arguments(node)
    positional, keywords = split(op, arguments) if isinstance(op, OpOverload) else (arguments, {})
    args = tuple(map_values(item, fake) for item in positional)
    kwargs = {name: map_values(item, fake) for name, item in keywords.items()}
    try:
        calls, result = _run(mirror, function, args, kwargs)
    except _Mutation:
        # Functionalisation costs time, and few decompositions write into tensors.
        functional = torch.func.functionalize(function, remove="mutations")
        try:
            calls, result = _run(mirror, functional, args, kwargs)
        except _Mutation as mutation:
            raise Undecomposable(f"its decomposition writes into a tensor ({mutation})") from mutation
    if result is NotImplemented:
        raise Undecomposable(f"the decomposition of {op} does not cover these arguments")
    return calls, tuple(result) if isinstance(result, tuple | list) else (result,)


def _run(
    mirror: Mirror, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Call], Any]:
    from torch._dispatch.python import enable_python_dispatcher

    recorder = Recorder()
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(quiet_pytorch())
            if mirror.shape_env is not None:
                stack.enter_context(enable_python_dispatcher())
                stack.enter_context(answers_of_calls(mirror.shape_env))
                stack.enter_context(without_new_guards(mirror.shape_env))
                stack.enter_context(roots_of_sizes())
            stack.enter_context(mirror.fake_mode)
            stack.enter_context(recorder)
            return recorder.calls, function(*args, **kwargs)
    except (_Mutation, Undecomposable):
        raise
    except Exception as error:  # whatever the decomposition's own code raises
        raise Undecomposable(f"its decomposition fails: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def without_new_guards(shape_env: ShapeEnv) -> Iterator[None]:
    """Raise when code wants to know about a size what does not hold for all sizes."""
    if hasattr(shape_env, "error_on_new_guards"):
        with shape_env.error_on_new_guards():
            yield
        return

    def refuse(expr: Any, value: Any) -> None:
        raise Undecomposable(f"it depends on whether {expr} is {value}")

    frozen = shape_env.frozen
    shape_env.frozen = True
    shape_env._check_frozen = refuse  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        shape_env.frozen = frozen
        del shape_env._check_frozen


def _live(calls: Sequence[Call], outputs: Sequence[Any]) -> list[Call]:
    """The calls that the outputs need, in order."""
    needed = {id(item) for item in outputs if isinstance(item, torch.Tensor)}
    kept: list[Call] = []
    for call in reversed(calls):
        if any(id(item) in needed for item in tree_flatten(call.outputs)[0]):
            kept.append(call)
            flat, _ = tree_flatten((call.args, call.kwargs))
            needed.update(id(item) for item in flat if isinstance(item, torch.Tensor))
    return kept[::-1]


def _check(mirror: Mirror, node: fx.Node, outputs: Sequence[Any]) -> None:
    """The outputs of a decomposition must have the dtypes and shapes of the node's."""
    values = mirror.outputs(node)
    if len(values) != len(outputs):
        raise Undecomposable(f"its decomposition returns {len(outputs)} outputs instead of {len(values)}")
    for value, output in zip(values, outputs, strict=True):
        if mirror.unused(value):
            continue
        if not isinstance(output, torch.Tensor) or not mirror.is_tensor(value):
            raise Undecomposable(f"its decomposition returns {text(output)} for output {value.index}")
        reason = disagreement(mirror.sizes, mirror.fake(value), output, certain=False)
        if reason is not None:
            raise Undecomposable(f"in its decomposition {reason}")


def _splice(
    mirror: Mirror, node: fx.Node, calls: Sequence[Call], outputs: Sequence[Any], ancestors: tuple[str, ...]
) -> Change:
    step = Provenance(NAME, _WHERE, (node.name,))
    values: dict[int, Value] = {}
    for operand in mirror.inputs(node):
        values.setdefault(id(mirror.fake(operand)), operand)
    new: list[fx.Node] = []

    def abstract(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            if id(item) not in values:
                values[id(item)] = _constant(mirror, node, item)
            return values[id(item)]
        if isinstance(item, torch.SymInt):
            return sizes.normal(item)
        return item.node.expr if isinstance(item, torch.SymFloat | torch.SymBool) else item

    try:
        for call in calls:
            if call.op in _IDENTITIES:
                values.setdefault(id(call.outputs), abstract(call.args[0]))
                continue
            positional, keywords = canonical_arguments(call.op, call.args, call.kwargs)
            arguments = [
                tuple(map_values(item, abstract)) if isinstance(item, tuple | list) else abstract(item)
                for item in (*positional, *keywords.values())
            ]
            fake = tuple(call.outputs) if isinstance(call.outputs, list) else call.outputs
            made = mirror.insert(call.op, arguments, node, origin=(node,), rule=step, fake=fake)
            made.meta["decomposed"] = ancestors
            new.append(made)
            for index, output in enumerate(fake if isinstance(fake, tuple) else (fake,)):
                values.setdefault(id(output), Value(made, index))
        targets = [
            (value, abstract(output))
            for value, output in zip(mirror.outputs(node), outputs, strict=True)
            if not mirror.unused(value)
        ]
    except (Undecomposable, EngineError) as reason:
        mirror.erase_dead(new)
        raise reason if isinstance(reason, Undecomposable) else Undecomposable(str(reason)) from reason
    return replace(mirror, targets, new)


def _constant(mirror: Mirror, node: fx.Node, tensor: torch.Tensor) -> Value:
    """A tensor that a decomposition brings along."""
    real = tensor.constant if isinstance(tensor, FakeTensor) else tensor
    if real is None:
        raise Undecomposable("its decomposition uses a tensor that is neither an input nor a result")
    return Value(mirror.constant_node(real.detach().clone(), "_decomposition", node), 0)


__all__ = [
    "NAME",
    "Call",
    "Recorder",
    "Undecomposable",
    "decompose",
    "expand",
    "has_decomposition",
    "without_new_guards",
]
