"""Codes: whole numbers of few bits, which weights and values of a quantised model are made of."""

from __future__ import annotations

import math
from typing import Any

import torch

from engine.graph.mirror import Mirror, Value
from engine.weights.recipe import recipe

Bounds = tuple[float, float]
BOUNDS = "bounds_of_codes"
"""The key under which the metadata of a folded constant has its bounds."""

# Data about PyTorch, as the three below: ops that only move elements about, ops that round, the cast, the clamps.
_MOVES = frozenset(
    {
        "aten._reshape_copy.default",
        "aten._unsafe_view.default",
        "aten.alias.default",
        "aten.clone.default",
        "aten.detach.default",
        "aten.expand.default",
        "aten.flatten.using_ints",
        "aten.index.Tensor",
        "aten.permute.default",
        "aten.reshape.default",
        "aten.select.int",
        "aten.slice.Tensor",
        "aten.squeeze.default",
        "aten.squeeze.dim",
        "aten.squeeze.dims",
        "aten.t.default",
        "aten.transpose.int",
        "aten.unsqueeze.default",
        "aten.view.default",
    }
)
_ROUNDS = frozenset(f"aten.{name}.default" for name in ("round", "floor", "ceil", "trunc"))
_COPY = "aten._to_copy.default"
_CLAMPS = ("aten.clamp.default", "aten.clamp.Tensor")
# Deeper expressions are not looked at; codes are a few ops from what rounds them.
_DEPTH = 24


def bounds_of_codes(mirror: Mirror, value: Value) -> Bounds | None:
    """The least and the largest whole number that a tensor can hold; None where it may hold anything else.

    Elements of a constant that is made of ints alone are read. Of everything else only the ops count: what is rounded
    and then clamped between whole numbers is so for any weights and inputs.
    """
    if mirror.is_const(value) and made_of_ints(mirror, value):
        data = mirror.read_constant(value)
        if data.is_complex() or not data.numel():
            return None
        if data.is_floating_point() and not bool((data == data.round()).all()):
            return None
        return float(data.min()), float(data.max())
    return bounds_by_form(mirror, value)


def bounds_by_form(mirror: Mirror, value: Value) -> Bounds | None:
    """The same, by the ops that compute the tensor alone."""
    return _bounds(mirror, value, 0)


def made_of_ints(mirror: Mirror, value: Value) -> bool:
    """Whether the constants of the model that a constant is computed from are ints, and there is one."""
    seen = {value.node}
    queue, sources = [value.node], 0
    while queue:
        node = queue.pop()
        # What rules wrote out is the same for any weights; what was folded knows what it was made of.
        if node.op == "get_attr" and not node.meta.get("literal", False):
            how = node.meta.get("recipe")
            for name in (str(node.target),) if how is None else how.sources:
                dtype = mirror.constants[name].dtype
                if dtype.is_floating_point or dtype.is_complex:
                    return False
                sources += 1
        queue.extend(operand for operand in node.all_input_nodes if operand not in seen)
        seen.update(node.all_input_nodes)
    return sources > 0


def is_kept(mirror: Mirror, value: Value) -> bool:
    """Whether a constant is left to be made of smaller ones by the engine itself, instead of being held in it."""
    return value.node.op == "call_function" and mirror.is_tensor(value) and mirror.is_const(value)


def block_shape(mirror: Mirror, value: Value, shape: tuple[int, ...]) -> list[int]:
    """The largest blocks, of one size along each dim, in which a constant that is broadcast to a shape has one number.

    What counts is how the constant is made, not its elements: it is made again of floating constants drawn at random,
    so that equal elements are equal for any weights.
    """
    how = recipe(mirror, value)
    generator = torch.Generator().manual_seed(0)
    found = [0] * len(shape)
    for _ in range(2):
        drawn = {name: _drawn(mirror.constants[name], generator) for name in how.sources}
        data = how.evaluate(drawn).expand(shape)
        for dim, size in enumerate(shape):
            changes = data.narrow(dim, 1, size - 1) != data.narrow(dim, 0, size - 1) if size > 1 else data.new_zeros(0)
            rest = [other for other in range(len(shape)) if other != dim]
            borders = changes.any(rest) if rest and changes.numel() else changes
            found[dim] = math.gcd(found[dim], size, *((borders.reshape(-1).nonzero() + 1).flatten().tolist()))
    return found


def _drawn(constant: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    constant = constant.detach().cpu()
    if not constant.dtype.is_floating_point:
        return constant
    return (torch.rand(constant.shape, generator=generator) + 0.5).to(constant.dtype)


def _bounds(mirror: Mirror, value: Value, depth: int) -> Bounds | None:
    node = value.node
    if node.op != "call_function" or depth > _DEPTH:
        # Folding notes what it knew of a constant.
        return node.meta.get(BOUNDS) or _of_dtype(mirror.fake(value))
    op, arguments = mirror.op(node), mirror.arguments(node)
    found: Bounds | None = None
    if op in _MOVES or (op == _COPY and _holds(mirror.fake(value).dtype)):
        found = _operand(mirror, arguments[0], depth)
    elif op in _CLAMPS:
        found = _clamped(mirror, arguments, depth)
    elif op in ("aten.add.Tensor", "aten.sub.Tensor") and arguments[2] == 1:
        first, second = (_operand(mirror, item, depth) for item in arguments[:2])
        if first is not None and second is not None:
            low, high = second if op == "aten.add.Tensor" else (-second[1], -second[0])
            found = first[0] + low, first[1] + high
    known = _of_dtype(mirror.fake(value))
    if found is None or known is None:
        return found or known
    # What does not fit into ints of few bits wraps around.
    return found if known[0] <= found[0] and found[1] <= known[1] else known


def _operand(mirror: Mirror, item: Any, depth: int) -> Bounds | None:
    if isinstance(item, Value):
        if not mirror.is_tensor(item):
            return None
        whole = mirror.is_const(item) and _is_int(mirror.dtype(item)) and made_of_ints(mirror, item)
        return bounds_of_codes(mirror, item) if whole else _bounds(mirror, item, depth + 1)
    return (item, item) if _is_whole_number(item) else None


def _clamped(mirror: Mirror, arguments: tuple[Any, ...], depth: int) -> Bounds | None:
    x, low, high = (arguments[0], *(_number(mirror, item) for item in arguments[1:]))
    if not (_is_whole_number(low) and _is_whole_number(high)) or not _is_whole(mirror, x, depth):
        return None
    return min(low, high), high


def _is_whole(mirror: Mirror, item: Any, depth: int) -> bool:
    """Whether every element of an operand is a whole number, or infinite."""
    if not isinstance(item, Value):
        return _is_whole_number(item)
    fake = mirror.fake(item)
    if not isinstance(fake, torch.Tensor) or depth > _DEPTH:
        return False
    if not fake.dtype.is_floating_point:
        return not fake.dtype.is_complex
    node = item.node
    if node.op != "call_function":
        return False
    op, arguments = mirror.op(node), mirror.arguments(node)
    if op in _ROUNDS:
        return True
    # Rounding a whole number to fewer digits gives a whole number.
    if op in _MOVES or op == _COPY:
        return _is_whole(mirror, arguments[0], depth + 1)
    if op in ("aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor", *_CLAMPS, "aten.neg.default"):
        return all(_is_whole(mirror, part, depth + 1) for part in arguments if part is not None)
    return False


def _number(mirror: Mirror, item: Any) -> Any:
    """A bound, of which a constant of one element is read."""
    if isinstance(item, Value) and mirror.is_const(item) and mirror.fake(item).numel() == 1:
        return mirror.read_constant(item).item()
    return item


def _is_whole_number(item: Any) -> bool:
    return isinstance(item, int | float) and math.isfinite(item) and item == int(item)


def _holds(dtype: torch.dtype) -> bool:
    """Whether a dtype has all whole numbers up to 256, on either side of zero, or wraps around."""
    return dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16) or _is_int(dtype)


def _is_int(dtype: torch.dtype) -> bool:
    return not dtype.is_floating_point and not dtype.is_complex and dtype != torch.bool


def _of_dtype(fake: Any) -> Bounds | None:
    if isinstance(fake, torch.Tensor) and fake.dtype in (torch.int8, torch.uint8):
        info = torch.iinfo(fake.dtype)
        return info.min, info.max
    return None


__all__ = ["BOUNDS", "block_shape", "bounds_by_form", "bounds_of_codes", "is_kept", "made_of_ints"]
