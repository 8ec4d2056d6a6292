"""Constant folding: what does not depend on the inputs is computed once, when compiling.

Only the frontier is evaluated and kept: constant values that something at run time, or the output, reads.
Values on the way to it never become constants of the compiled model.

A value that is much larger than what it is made of stays an op if a rule can convert the op (``expand`` of one
row to 64 MiB, ``full``): TensorRT then makes it when the engine runs, and only its operands are folded.  A value
counts as such above :data:`LARGE` bytes and :data:`GROWTH` times the size of its operands.  Where no rule can
convert the op, it is folded whatever its size, because a constant is the only thing left to be.

What makes floats of int8 weights stays as well if a rule can convert it, for products in int8; so does what a rule
converts by dequantizing constants, and what only moves the results (a reshape, a cat): TensorRT keeps such weights
narrow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from engine.evaluator.codes import BOUNDS, bounds_by_form
from engine.graph import provenance
from engine.graph.mirror import Mirror, Value
from engine.graph.provenance import Provenance
from engine.weights.recipe import Recipe, recipe

LARGE = 16 << 20
GROWTH = 4
# Constants up to this many bytes are compared by content.
SMALL = 64 << 10

_JOINS = ("aten.cat.default", "aten.stack.default")
_WIDE = {torch.float32, torch.float16, torch.bfloat16}

NAME = "constant folding"
_WHERE = "engine.rewriter.folding"


@dataclass(frozen=True, slots=True)
class Folded:
    """One constant that took the place of nodes.

    Attributes:
        name: its key among the mirror's constants.
        values: names of the nodes whose value it is; several when their recipes are the same.
        recipe: how to compute it from the constants of the model; also ``meta["recipe"]`` of the node.
        bytes: its size.
    """

    name: str
    values: tuple[str, ...]
    recipe: Recipe
    bytes: int


def fold_constants(
    mirror: Mirror,
    *,
    convertible: Callable[[fx.Node], bool] | None = None,
    dequantized: Callable[[fx.Node], Sequence[Value] | None] = lambda node: None,
) -> tuple[Folded, ...]:
    """Replace constant values at the frontier by ``get_attr`` constants.

    Constants with equal recipes are made once.  Constants that depend on no weights are also shared when they
    are small and hold the same numbers; with weights that would be wrong after a refit.

    Args:
        convertible: whether a rule can convert a node; without it every constant value is folded.
        dequantized: what a rule reads that converts a node by dequantizing constants; None where none does.

    Returns:
        The constants made, in graph order.

    Raises:
        EngineError: PyTorch could not evaluate an op.
    """
    frontier = _frontier(mirror, convertible, dequantized)
    # Before any edit: a recipe leads back to the model's constants, not to other folded ones.
    recipes = {value: recipe(mirror, value) for value in frontier}
    made: dict[str, fx.Node] = {}
    by_content: dict[object, fx.Node] = {}
    folded: dict[fx.Node, list[str]] = {}
    for value in frontier:
        how = recipes[value]
        constant = made.get(how.key)
        if constant is None:
            tensor = mirror.constant(value)
            content = None if how.sources else _content(tensor)
            constant = by_content.get(content) if content is not None else None
            if constant is None:
                constant = _insert(mirror, value, tensor, how)
                if content is not None:
                    by_content[content] = constant
            made[how.key] = constant
        folded.setdefault(constant, []).append(_name(mirror, value))
        mirror.replace(value, Value(constant, 0))
    mirror.erase_dead(value.node for value in frontier if not value.node._erased)
    return tuple(
        Folded(str(node.target), tuple(names), node.meta["recipe"], _bytes(node.meta["val"]))
        for node, names in folded.items()
    )


def _frontier(
    mirror: Mirror,
    convertible: Callable[[fx.Node], bool] | None,
    dequantized: Callable[[fx.Node], Sequence[Value] | None],
) -> list[Value]:
    """Constant values to be evaluated, in graph order."""
    found: dict[Value, None] = {}
    kept: dict[fx.Node, Sequence[Value] | None] = {}

    def read_if_kept(node: fx.Node) -> Sequence[Value] | None:
        """What is read of a constant node that stays an op; None where it is folded."""
        if node not in kept:
            kept[node] = decide(node)
        return kept[node]

    def decide(node: fx.Node) -> Sequence[Value] | None:
        if convertible is None or node.op != "call_function":
            return None
        inputs = mirror.inputs(node)
        if moves(mirror, node):
            every = all(read_if_kept(each.node) is not None for each in inputs)
            return inputs if every and convertible(node) else None
        reads = dequantized(node)
        if reads is None and (grows(mirror, node) or _widens(mirror, node)) and convertible(node):
            return inputs
        return reads

    def visit(values: Iterable[Value]) -> None:
        for value in values:
            node = value.node
            if node.op != "call_function" or value in found:
                continue
            if not mirror.is_tensor(value) or not mirror.is_const(value):
                continue
            reads = read_if_kept(node)
            if reads is None:
                found[value] = None
            elif node not in visited:
                visited.add(node)
                visit(reads)

    visited: set[fx.Node] = set()
    for node in mirror.graph.nodes:
        if node.op == "output" or (node.op == "call_function" and not mirror.is_const(Value(node, 0))):
            visit(mirror.inputs(node))
    return sorted(found)


def moves(mirror: Mirror, node: fx.Node) -> bool:
    """Whether a node gives the elements of its operands again: a reshape, a cat, floats as other floats."""
    inputs = mirror.inputs(node)
    if len(inputs) != 1 and (not inputs or mirror.op(node) not in _JOINS):
        return False
    before, after = [mirror.fake(each) for each in inputs], mirror.fake(Value(node, 0))
    same = all(each.dtype == after.dtype or {each.dtype, after.dtype} <= _WIDE for each in before)
    return bool(same and sum(each.numel() for each in before) == after.numel())


def grows(mirror: Mirror, node: fx.Node) -> bool:
    """Whether a constant node makes something large out of something much smaller."""
    size = sum(_bytes(mirror.fake(value)) for value in mirror.outputs(node))
    return size > LARGE and size > GROWTH * sum(_bytes(mirror.fake(value)) for value in mirror.inputs(node))


def _widens(mirror: Mirror, node: fx.Node) -> bool:
    """Whether a node makes floats out of as many int8: folded, TensorRT would not see the int8 weights."""
    sizes = [mirror.fake(value).numel() for value in mirror.outputs(node) if mirror.fake(value).is_floating_point()]
    fakes = [mirror.fake(value) for value in mirror.inputs(node)]
    return any(fake.dtype == torch.int8 and fake.numel() in sizes for fake in fakes)


def _bytes(fake: object) -> int:
    return fake.numel() * fake.element_size() if isinstance(fake, torch.Tensor) else 0


def _name(mirror: Mirror, value: Value) -> str:
    return f"{value.node.name}.{value.index}" if len(mirror.outputs(value.node)) > 1 else value.node.name


def _content(tensor: torch.Tensor) -> object | None:
    """Equal for small tensors that hold the same bits."""
    if _bytes(tensor) > SMALL or tensor.layout != torch.strided:
        return None
    # A tensor of one element counts as contiguous with any stride; its copy has stride one.
    flat = tensor.detach().cpu().clone(memory_format=torch.contiguous_format).reshape(-1)
    raw = flat.view(torch.uint8).numpy().tobytes()
    return tensor.dtype, tuple(tensor.shape), str(tensor.device), hashlib.sha256(raw).hexdigest()


def _insert(mirror: Mirror, value: Value, tensor: torch.Tensor, how: Recipe) -> fx.Node:
    hint = f"{value.node.name}_folded" + (f"_{value.index}" if value.index else "")
    node = mirror.constant_node(tensor, hint, value.node)
    provenance.inherit(node, (value.node,), Provenance(NAME, _WHERE, how.nodes))
    node.meta["recipe"] = how
    bounds = bounds_by_form(mirror, value)
    if bounds is not None:
        node.meta[BOUNDS] = bounds
    return node
