"""Comparisons of values of the language; those of symbolic sizes may stay undecided."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import sympy
import torch

from engine import sizes as symints
from engine.dsl.checks.needs import RELATIONS
from engine.evaluator.builtins import FUNCTIONS, describe
from engine.evaluator.failures import Failed
from engine.evaluator.plan import AbstractTensor, Captured

if TYPE_CHECKING:
    from engine.evaluator.context import Context

# Types of values that are equal where Python says so.
_EXACT = frozenset({int, str, torch.dtype})


def comparison(relation: str) -> Callable[[Any, Any, Context], Any]:
    """The function that compares two values: a truth, or a relation of sizes that is not known when compiling."""
    plain = RELATIONS[relation]
    # Most values are of these types, and need no further questions.
    exact = _EXACT if relation in ("==", "!=") else frozenset({int})

    def compared(left: Any, right: Any, context: Context) -> Any:
        if type(left) in exact and type(right) in exact:
            return plain(left, right)
        return compare(relation, left, right, context)

    return compared


def compare(relation: str, left: Any, right: Any, context: Context) -> Any:
    """``left relation right``.

    Raises:
        Failed: the values have no order.
    """
    if isinstance(left, list | tuple) and isinstance(right, list | tuple) and relation in ("==", "!="):
        if len(left) != len(right):
            return relation == "!="
        pairs = [compare("==", a, b, context) for a, b in zip(left, right, strict=True)]
        same = FUNCTIONS["all"](context, pairs)
        if relation == "==":
            return same
        return sympy.Not(same) if isinstance(same, sympy.Basic) else not same
    if isinstance(left, sympy.Basic) or isinstance(right, sympy.Basic):
        if not (symints.is_symint(left) and symints.is_symint(right)):
            return relation == "!="  # a size is never equal to none, a string or a dtype
        return context.sizes.compare(relation, left, right)
    if isinstance(left, AbstractTensor) or isinstance(right, AbstractTensor):
        return _same_tensor(left, right) is (relation == "==")
    if relation in ("==", "!="):
        return (left == right and isinstance(left, bool) == isinstance(right, bool)) is (relation == "==")
    try:
        return RELATIONS[relation](left, right)
    except TypeError:
        raise Failed(f"{describe(left)} {relation} {describe(right)} has no meaning") from None


def contains(items: Any, item: Any, context: Context) -> bool:
    """Whether a list has an item.

    Raises:
        Failed: that depends on sizes that are not known when compiling.
    """
    if type(item) in _EXACT and not isinstance(items, str) and _EXACT.issuperset(map(type, items)):
        return item in items
    found = FUNCTIONS["any"](context, [compare("==", item, other, context) for other in items])
    if isinstance(found, sympy.Basic):
        raise Failed(f"undecided when compiling: {found}")
    return bool(found)


def settle(value: Any, context: Context) -> Any:
    """A relation of sizes as a truth, where it holds or fails for all sizes; anything else as it is."""
    if isinstance(value, sympy.Basic) and not isinstance(value, sympy.Expr):
        settled = context.sizes.decide(value)
        return value if settled is None else settled
    return value


def _same_tensor(left: Any, right: Any) -> bool:
    if isinstance(left, Captured) and isinstance(right, Captured):
        return left.value == right.value
    return left is right


__all__ = ["compare", "comparison", "contains", "settle"]
