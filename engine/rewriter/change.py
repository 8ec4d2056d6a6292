"""An edit of the graph, as the rewriter needs to know it to decide what to look at again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sympy
import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from engine.evaluator.plan import AbstractTensor
from engine.graph.mirror import Mirror, Value
from engine.graph.symbolic.size_functions import difference
from engine.sizes import Int, Sizes, normal


@dataclass(frozen=True, slots=True)
class Change:
    """One replacement.

    Attributes:
        new: inserted nodes in graph order, size nodes and ``getitem`` left out.
        users: nodes whose operands were replaced, in graph order.
        fell: nodes that lost a use.
        became_const: whether a value that was not constant is now.
    """

    new: tuple[fx.Node, ...]
    users: tuple[fx.Node, ...]
    fell: tuple[fx.Node, ...]
    became_const: bool


def replace(mirror: Mirror, targets: Sequence[tuple[Value, Value]], new: Iterable[fx.Node]) -> Change:
    """Let the users of old values use new ones, and erase what is unused afterwards.

    Args:
        targets: pairs of an old and a new value.
        new: the nodes that were inserted for it; those that turn out to be unused are erased too.
    """
    became_const = False
    users: dict[fx.Node, None] = {}
    for old, value in targets:
        # Not the users of the new value: it may be one that the whole graph uses.
        users.update(dict.fromkeys(mirror.users(old)))
        became_const |= mirror.is_const(value) and not mirror.is_const(old)
        mirror.replace(old, value)
    inserted = tuple(new)
    fell = mirror.erase_dead(dict.fromkeys((*(old.node for old, _ in targets), *inserted)))
    return Change(
        new=tuple(node for node in inserted if not node._erased),
        users=tuple(sorted(node for node in users if not node._erased)),
        fell=tuple(node for node in fell if not node._erased),
        became_const=became_const,
    )


def disagreement(sizes: Sizes, old: torch.Tensor, new: torch.Tensor | AbstractTensor, *, certain: bool) -> str | None:
    """How a replacement differs from what it replaces: a sentence, or None if dtype and shape agree.

    Args:
        certain: demand that dims are equal for all sizes, as far as that can be told; otherwise only refuse dims
            that certainly differ.
    """
    if old.dtype != new.dtype:
        return f"the dtype becomes {new.dtype} instead of {old.dtype}"
    shape = new.shape or ()
    if old.dim() != len(shape):
        return f"the rank becomes {len(shape)} instead of {old.dim()}"
    for axis, (before, after) in enumerate(zip(old.shape, shape, strict=True)):
        a, b = normal(before), normal(after)
        equal = sizes.compare("==", a, b)
        if equal is True or has_unbacked(after) or has_unbacked(before):
            continue
        # Sizes that are written in two ways need not be provably equal: then they have to be so wherever it is tried.
        if equal is False or (certain and difference(sympy.sympify(a), sympy.sympify(b)) is not None):
            return f"dim {axis} becomes {sizes.describe(b)} instead of {sizes.describe(a)}"
    return None


def has_unbacked(size: Int | torch.SymInt) -> bool:
    """Whether a size is only known once the data is."""
    return not isinstance(size, int) and bool(free_unbacked_symbols(size))


def text(fake: object) -> str:
    """A fake value for an error message, e.g. ``float32[2, s27]``."""
    if isinstance(fake, torch.Tensor | AbstractTensor):
        return f"{str(fake.dtype).removeprefix('torch.')}[{', '.join(map(str, fake.shape or ()))}]"
    if isinstance(fake, tuple | list):
        return "(" + ", ".join(map(text, fake)) + ")"
    return str(fake)


def counts(mirror: Mirror, node: fx.Node) -> bool:
    """Whether a node does work at run time: not an input, a constant, a projection or a size."""
    return computed(mirror, node) and not mirror.is_const(Value(node, 0))


def computed(mirror: Mirror, node: fx.Node) -> bool:
    """Whether a node does work at run time or, if it is constant, when constants are folded."""
    return node.op == "call_function" and mirror.op(node) != "getitem" and holds_tensors(node)


def holds_tensors(node: fx.Node) -> bool:
    """Whether a node returns tensors, not sizes."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return True
    return isinstance(value, tuple | list) and any(isinstance(item, torch.Tensor) for item in value)
