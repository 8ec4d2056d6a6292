"""Trying a captured graph at sizes that tracing has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sympy
import torch
from torch import nn
from torch.utils import _pytree as pytree

from engine.capture.captured import Captured
from engine.capture.examples import stretched
from engine.capture.inputs import Range
from engine.capture.tracing.unchanged import unchanged
from engine.distributed.alone import alone
from engine.errors import EngineError
from engine.process.pytorch_modes import apart

# How far results may be apart, of the greatest among them: kernels sum in another order.
_TOLERANCES = {torch.float64: 1e-6, torch.complex128: 1e-6, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_TOLERANCE = 1e-3


class Difference(NamedTuple):
    """How a captured graph differs from its model.

    Attributes:
        text: what comes out differently, in words.
        refused: whether the model itself raises an error.
    """

    text: str
    refused: bool = False


def difference(
    model: nn.Module, captured: Captured, leaves: Sequence[Any], sizes: Mapping[sympy.Symbol, int]
) -> Difference | None:
    """How a captured graph differs from its model at some sizes; None where it does not.

    Both run in PyTorch, once, on the example arguments cut or repeated to these sizes; symbols that are not among
    ``sizes`` get their least size from 2 on.
    """
    values = {symbol: _usual(allowed) for symbol, allowed in captured.ranges.items()} | dict(sizes)
    inputs = [_sized(argument, leaf, values) for argument, leaf in zip(captured.arguments, leaves, strict=True)]
    named = zip(captured.arguments, inputs, strict=True)
    # What the model writes to its inputs and buffers goes to copies.
    copies = [leaf.clone() if argument.placeholder in captured.written else leaf for argument, leaf in named]
    args, kwargs = pytree.tree_unflatten(copies, captured.in_spec)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    live = [value for argument, value in zip(captured.arguments, inputs, strict=True) if not argument.is_constant]
    devices = sorted({leaf.device.index for leaf in inputs if isinstance(leaf, torch.Tensor) and leaf.is_cuda})
    found: list[Any] = []
    failure = None
    with (
        unchanged(model, values=True),
        torch.no_grad(),
        torch.random.fork_rng(devices=devices),
        alone(captured.graph),
    ):
        # The graph first: it writes to nothing, and the model may to its inputs and to what it holds.
        try:
            torch.manual_seed(0)
            with apart():
                found = captured.run(live)
        except Exception as error:
            failure = Difference(f"the captured graph raises {type(error).__name__}: {_first_line(error)}")
        try:
            torch.manual_seed(0)
            wanted = pytree.tree_leaves(torch.func.functional_call(model, buffers, args, kwargs))
        except EngineError:
            raise
        except Exception as error:
            return Difference(f"the model raises {type(error).__name__}: {_first_line(error)}", refused=True)
    if failure is not None:
        return failure
    if len(wanted) != len(found):
        return Difference(f"the model has {len(wanted)} results instead of {len(found)}")
    texts = (_apart(index, want, have) for index, (want, have) in enumerate(zip(wanted, found, strict=True)))
    return next((Difference(text) for text in texts if text is not None), None)


def _usual(allowed: Range) -> int:
    return min(max(allowed.min, 2), allowed.max)


def _sized(argument: Any, leaf: Any, values: Mapping[sympy.Symbol, int]) -> Any:
    def number(size: Any) -> int:
        return int(size.subs(values)) if isinstance(size, sympy.Expr) else size

    if isinstance(leaf, torch.Tensor) and argument.shape is not None:
        return stretched(leaf, [number(size) for size in argument.shape])
    return leaf if argument.symbol is None else number(argument.symbol)


def _apart(index: int, want: Any, have: Any) -> str | None:
    if not isinstance(want, torch.Tensor) or not isinstance(have, torch.Tensor):
        return None if want == have else f"result {index} of the model is {want!r}, not {have!r}"
    if (want.shape, want.dtype) != (have.shape, have.dtype):
        return f"result {index} of the model is {want.dtype} {list(want.shape)}, not {have.dtype} {list(have.shape)}"
    if not want.numel() or torch.equal(want, have):
        return None
    if want.is_floating_point() or want.is_complex():
        finite = want[want.isfinite()]
        scale = float(finite.abs().max()) if finite.numel() else 1.0
        near = _TOLERANCES.get(want.dtype, _TOLERANCE) * max(scale, 1e-6)
        if torch.allclose(have, want, rtol=0.0, atol=near, equal_nan=True):
            return None
    return f"result {index} of the model has other values"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


__all__ = ["Difference", "difference"]
