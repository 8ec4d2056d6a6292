"""Where a dynamic size is fixed to a number while a model is captured: ``range(x.shape[0])``, a loop over a tensor.

``torch.export`` then rejects the model where the user asked for a range, without saying where that came from.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv, uninteresting_files

from engine.capture.sizes.branches import Branch, described_line

__all__ = ["instead_of", "observed_fixes"]

_ENGINE = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "")
_OURS = (os.path.join(os.path.dirname(torch.__file__), ""), _ENGINE)
_CALLER = os.path.join(_ENGINE, "capture", "tracing", "torch_export.py")
_LOCK = threading.RLock()
# What is in a line that fixes a size, and what to write instead of it.
_INSTEAD = (
    (
        ("range(", "for "),
        "a loop is written out for one size: index with torch.arange(n); where each step needs the one before, use "
        "torch.while_loop or torch._higher_order_ops.scan, or make the size static",
    ),
    (("math.",), "torch.scalar_tensor(n).log() and the like in place of functions of math"),
    (("scale_factor", "interpolate(", "Upsample("), "size=(h, w) in place of scale_factor= made of sizes"),
    (("float(",), "n * 1.0, n ** -0.5 or torch.sym_float(n) in place of float(n)"),
    (("int(", "len("), "n // 2, x.shape[0] or torch.sym_int(n * 1.5) in place of int(...) and len(...)"),
)
_KEEP_SIZES = "n // 2, n ** 0.5, torch.sym_int(n) and torch.sym_float(n) are sizes, int(n) and float(n) are not"


def instead_of(source: str) -> str:
    """What to write instead of a line that makes a Python number of a size."""
    code = source.partition(": ")[2]
    return next((text for signs, text in _INSTEAD if any(sign in code for sign in signs)), _KEEP_SIZES)


@contextmanager
def observed_fixes(fixes: list[Branch]) -> Iterator[None]:
    """Add each size that is fixed, with the first line of the model that does so, to ``fixes``."""
    replace = getattr(ShapeEnv, "_set_replacement", None)
    if replace is None:
        # Not a public method. Where PyTorch has none, errors do not say where.
        yield
        return

    def observe(shape_env: ShapeEnv, symbol: sympy.Symbol, value: sympy.Expr, message: str) -> None:
        if value.is_Integer and symbol not in shape_env.replacements:
            source = _model_line(sys._getframe(1))
            if source is not None:
                fixes.append(Branch(sympy.Eq(symbol, value, evaluate=False), source))
        replace(shape_env, symbol, value, message)

    with _LOCK:
        # A ``ShapeEnv`` notes who asks, which is never this file.
        uninteresting_files().add(__file__)
        ShapeEnv._set_replacement = observe  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            ShapeEnv._set_replacement = replace  # type: ignore[method-assign]


def _model_line(frame: FrameType | None) -> str | None:
    """The innermost line outside PyTorch and this package; None where PyTorch fixes a size before it runs the model."""
    while frame is not None and frame.f_code.co_filename.startswith((*_OURS, "<")):
        if frame.f_code.co_filename == _CALLER:
            return None
        frame = frame.f_back
    return None if frame is None else described_line(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
