"""The recorded shapes of a module's inputs and outputs, and output shapes computed from them.

A compiled module that meets fake tensors (``torch.export`` or ``torch.compile`` of something
around it) cannot run its engine; this is what says which shapes it would have given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import sympy
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from engine.errors import InputError
from engine.graph.symbolic.size_functions import function_of
from engine.graph.tensor_kinds import unfit
from engine.graph.tensor_spec import TensorSpec
from engine.sizes import Int, normal

Size: TypeAlias = "int | torch.SymInt"


@dataclass(frozen=True)
class Boundary:
    """What goes into and comes out of an engine, in the order of its bindings.

    Attributes:
        inputs: a `TensorSpec` per tensor; a symbolic int for an input that is a size; None where only
            the outputs were recorded.
        outputs: a `TensorSpec` per output, its sizes over the symbols of the inputs.
    """

    inputs: tuple[TensorSpec | Int, ...] | None
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, inputs: Sequence[Any], outputs: Sequence[torch.Tensor]) -> Boundary:
        """Record fake (or real) tensors and symbolic ints."""
        return cls(
            tuple(TensorSpec.of(x) if isinstance(x, torch.Tensor) else normal(x) for x in inputs),
            tuple(map(TensorSpec.of, outputs)),
        )

    def check(self, inputs: Sequence[Any], names: Sequence[str]) -> None:
        """Check real inputs against what was recorded: count, dtype, rank and known sizes.

        Raises:
            InputError: the first input that does not fit.
        """
        check_count(inputs, names)
        if self.inputs is None:
            return
        for name, spec, value in zip(names, self.inputs, inputs, strict=True):
            if not isinstance(value, torch.Tensor) or not isinstance(spec, TensorSpec):
                continue
            if value.dtype != spec.dtype:
                raise InputError(f"input {name!r} is {value.dtype}, the engine takes {spec.dtype}")
            if value.ndim != len(spec.shape):
                raise InputError(
                    f"input {name!r} has shape {list(value.shape)}, the engine takes rank {len(spec.shape)} ({spec})"
                )
            for axis, (size, expected) in enumerate(zip(value.shape, spec.shape, strict=True)):
                if isinstance(expected, int) and size != expected:
                    raise InputError(f"input {name!r} has size {size} in dim {axis}, the engine takes {expected}")

    def output_shapes(self, inputs: Sequence[Any], unknown: Callable[[], Size] | None = None) -> list[tuple[Size, ...]]:
        """The output shapes for inputs of given, possibly symbolic, shapes.

        Args:
            inputs: tensors (fake or real) and ints, as the module is called with.
            unknown: makes a size for an output dim that the input sizes do not determine.

        Raises:
            InputError: a size is not determined and ``unknown`` is not given.
        """
        known = _Solution()
        for spec, value in zip(self.inputs or (), inputs, strict=self.inputs is not None):
            if isinstance(spec, TensorSpec):
                for recorded, size in zip(spec.shape, value.shape, strict=True):
                    known.learn(recorded, size)
            elif not isinstance(value, torch.Tensor):
                known.learn(spec, value)
        known.solve()
        return [tuple(known.size(size, unknown) for size in output.shape) for output in self.outputs]


def check_count(inputs: Sequence[Any], names: Sequence[str]) -> None:
    """Raises InputError when the number of inputs is not the number of input bindings."""
    if len(inputs) != len(names):
        raise InputError(f"{len(inputs)} inputs given, the engine takes {len(names)}: {', '.join(names)}")


def check_kinds(inputs: Sequence[Any], names: Sequence[str]) -> None:
    """Raises InputError for the first input that is a tensor which no engine can read."""
    for name, value in zip(names, inputs, strict=False):
        if not isinstance(value, torch.Tensor):
            continue
        if problem := unfit(value):
            raise InputError(f"input {name!r} {problem}")
        if value.is_meta and not isinstance(value, FakeTensor):
            raise InputError(f"input {name!r} is on the meta device, where no engine can run")


class _Solution:
    """Symbols of the recorded input sizes, solved for the sizes of one call."""

    def __init__(self) -> None:
        self._expressions: dict[sympy.Expr, Size] = {}
        self._symbols: dict[sympy.Symbol, Size] = {}

    def learn(self, recorded: Int, size: Size) -> None:
        if isinstance(recorded, sympy.Symbol):
            self._symbols.setdefault(recorded, size)
        elif not isinstance(recorded, int):
            self._expressions.setdefault(recorded, size)

    def solve(self) -> None:
        """Find symbols that occur only inside sizes such as ``2*s0 + 1``."""
        waiting = dict(self._expressions)
        progress = True
        while waiting and progress:
            progress = False
            for expression, size in list(waiting.items()):
                free = [symbol for symbol in expression.free_symbols if symbol not in self._symbols]
                if len(free) == 1 and (solved := self._affine(expression, free[0], size)) is not None:
                    self._symbols[free[0]] = solved
                if len(free) <= 1:
                    del waiting[expression]
                    progress = True

    def _affine(self, expression: sympy.Expr, symbol: Any, size: Size) -> Size | None:
        if not expression.is_polynomial(symbol) or sympy.degree(expression, symbol) != 1:
            return None
        slope = expression.coeff(symbol, 1)
        offset = self._evaluate(expression - slope * symbol)
        if not slope.is_Integer or offset is None:
            return None
        return (size - offset) // int(slope)

    def size(self, recorded: Int, unknown: Callable[[], Size] | None) -> Size:
        if isinstance(recorded, int):
            return recorded
        size = self._expressions.get(recorded)
        if size is None:
            size = self._evaluate(recorded)
        if size is None and unknown is not None:
            size = self._expressions[recorded] = unknown()
        if size is None:
            raise InputError(f"the output size {recorded} does not follow from the sizes of the inputs")
        return size

    def _evaluate(self, expression: sympy.Expr) -> Size | None:
        # A size of an input may stand inside the expression as a whole, s0//2 in 2*(s0//2), with
        # s0 itself unknown.
        bindings: dict[sympy.Symbol, Size] = dict(self._symbols)
        for whole, size in self._expressions.items():
            if not whole.free_symbols <= self._symbols.keys():
                stand_in = sympy.Dummy(integer=True)
                expression = expression.xreplace({whole: stand_in})
                bindings[stand_in] = size
        if not expression.free_symbols <= bindings.keys():
            return None
        if expression.is_Integer:
            return int(expression)
        used = {symbol: value for symbol, value in bindings.items() if symbol in expression.free_symbols}
        numbers = {symbol: value for symbol, value in used.items() if not isinstance(value, torch.SymInt)}
        if len(numbers) == len(used):
            try:
                return int(function_of(expression)(numbers))
            except ArithmeticError:
                return None
        try:
            result = sympy_interp(PythonReferenceAnalysis, used, expression)
        except (AttributeError, NotImplementedError, KeyError):
            return None
        return result if isinstance(result, torch.SymInt) else int(result)
