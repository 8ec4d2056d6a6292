"""Questions about sizes that get the answer of the example, without a guard on it."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import FrameType
from typing import Any, TypeAlias

import sympy
from torch.fx.experimental.symbolic_shapes import ShapeEnv, uninteresting_files

Applies: TypeAlias = "Callable[[ShapeEnv, Any, Any, FrameType], bool]"

_LOCK = threading.RLock()


@contextmanager
def answered_as_in_example(shape_env: ShapeEnv | None, applies: Applies) -> Iterator[None]:
    """Answer some questions of PyTorch by the sizes of the example.

    Args:
        shape_env: the one whose questions are answered; None for those of all.
        applies: says so of a question, given who is asked, the question, the answer, and the frame that asks.
    """
    target: Any = ShapeEnv if shape_env is None else shape_env
    with _LOCK if shape_env is None else nullcontext():
        before, evaluate = vars(target).get("evaluate_expr"), target.evaluate_expr

        def answer(asked: ShapeEnv, question: Any, hint: Any = None, *others: Any, **options: Any) -> Any:
            if applies(asked, question, hint, sys._getframe(1)):
                return sympy.sympify(hint)
            owner = (asked,) if shape_env is None else ()
            return evaluate(*owner, question, hint, *others, **options)

        # A ``ShapeEnv`` notes who asks, which is neither this file nor that of ``applies``.
        uninteresting_files().update((__file__, inspect.getfile(applies)))
        target.evaluate_expr = answer if shape_env is None else partial(answer, shape_env)
        try:
            yield
        finally:
            if before is None:
                del target.evaluate_expr
            else:
                target.evaluate_expr = before


__all__ = ["answered_as_in_example"]
