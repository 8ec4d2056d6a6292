"""Bounds on what a rule may compute while a model is compiled.

Rules come from users, and sizes from models: without bounds a short text is a list of a billion elements, a number
of a million digits or a power that takes hours.  Whatever is beyond them is a reason why a rule does not apply.
"""

from __future__ import annotations

from numbers import Number
from typing import Any

import sympy

from engine.evaluator.failures import Failed

# Expressions that are evaluated for one match; built-in rules take a few thousand.
MOST_STEPS = 4_000_000
MOST_ITEMS = 1 << 20
# Sizes, indices and hashes have 64 bits; their products twice as many.
_MOST_BITS = 128
_MOST_LETTERS = 1 << 16
# Sizes are sums and products of a few symbols. PyTorch's arithmetic on ranges multiplies powers out.
_MOST_PARTS = 2_000
_LARGEST_POWER = 64


def modest(value: Any) -> Any:
    """The value itself, where it is no larger than rules need.

    Raises:
        Failed: it is too large.
    """
    if isinstance(value, int):
        if value.bit_length() > _MOST_BITS:
            raise Failed(f"a number of more than {_MOST_BITS} bits")
    elif isinstance(value, list | tuple):
        if len(value) > MOST_ITEMS:
            raise Failed(f"a list of more than {MOST_ITEMS} elements")
    elif isinstance(value, str):
        if len(value) > _MOST_LETTERS:
            raise Failed(f"a string of more than {_MOST_LETTERS} letters")
    elif isinstance(value, sympy.Basic):
        _check_expression(value)
    return value


def numbers(*values: Any) -> tuple[Any, ...]:
    """The values, where all of them are numbers: Python would repeat lists and format strings.

    Raises:
        TypeError: one is not.
    """
    for value in values:
        if not isinstance(value, Number | sympy.Basic):
            raise TypeError(f"{value!r} is not a number")
    return values


def _check_expression(value: sympy.Basic) -> None:
    for count, part in enumerate(sympy.preorder_traversal(value), start=1):
        if count > _MOST_PARTS:
            raise Failed(f"a size of more than {_MOST_PARTS} terms")
        if isinstance(part, sympy.Integer) and int(part).bit_length() > _MOST_BITS:
            raise Failed(f"a number of more than {_MOST_BITS} bits")
        if isinstance(part, sympy.Pow) and not (part.exp.is_number and abs(part.exp) <= _LARGEST_POWER):
            raise Failed(f"a size to the power of {part.exp}")


__all__ = ["MOST_ITEMS", "MOST_STEPS", "modest", "numbers"]
