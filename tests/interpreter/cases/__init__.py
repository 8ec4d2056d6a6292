"""Every layer over sweeps of its attributes."""

from __future__ import annotations

from tests.interpreter.case import LayerCase
from tests.interpreter.cases import (
    arithmetic,
    attention,
    convolution,
    flow,
    indexing,
    movement,
    quantization,
    reductions,
    resize,
    slicing,
    special,
)

_FAMILIES = (
    arithmetic,
    attention,
    convolution,
    flow,
    indexing,
    movement,
    quantization,
    reductions,
    resize,
    slicing,
    special,
)

CASES: list[LayerCase] = [case for family in _FAMILIES for case in family.cases()]
