"""Questions of PyTorch about sizes that lay out memory: no value depends on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import sympy
import torch
from sympy.logic.boolalg import BooleanAtom
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from engine.graph.symbolic.answers import answered_as_in_example

_TORCH = os.path.join(os.path.dirname(torch.__file__), "")
# Functions that choose strides and the steps of a view; what a view may be is asked elsewhere.
_SHAPES = (
    *(os.path.join(_TORCH, name, "") for name in ("_prims", "_prims_common", "_refs", "_subclasses")),
    os.path.join(_TORCH, "_meta_registrations.py"),
)
_LAYOUT = frozenset(
    {
        "__lt__",
        "_collapse_view_helper",
        "_exec_fft",
        "_reshape_view_helper_core_alg",
        "are_strides_like_channels_last_or_false",
        "check_contiguous_sizes_strides",
        "ge",
        "is_channels_last_contiguous_2d",
        "is_channels_last_contiguous_3d",
        "is_contiguous",
        "is_non_overlapping_and_dense",
        "should_swap",
    }
)
# Those among them that also write sizes: where 4 divides s, a view of [s, 24] as [4, -1] has rows of 24 * (s // 4).
_OF_VIEWS = frozenset({"_collapse_view_helper", "_reshape_view_helper_core_alg"})
# Functions that look at the number of channels on a GPU; it may be the batch of the model.
_OF_CHANNELS = frozenset({"_upsample_linear", "_upsample_nearest", "upsample_nearest2d"})
# PyTorch 2.11 asks whether a pooled size divides to round a quotient of two positive numbers, which it never changes.
_OF_NOTHING = frozenset({"div_rtn"})
# Where Python calls operators that are written in C++: their questions have no frame of their own.
_CALLERS = (os.path.join(_TORCH, "_ops.py"), os.path.join(_TORCH, "_export", "non_strict_utils.py"))
# Operators that only ask how their argument lies in memory, and those that also ask whether a view of it can be.
_OF_MEMORY = frozenset({"contiguous", "is_contiguous"})
_VIEWS = frozenset({"flatten", "ravel", "reshape", "reshape_as", "unflatten"})
# Operators that make a view, and ask no more by inequalities than whether it is contiguous.
_MADE_VIEWS = frozenset({"as_strided", "diagonal", "narrow", "permute", "select", "slice", "transpose", "unfold"})
# Counts calls of functions, and is the frame that asks where an operator of a fake tensor is written in C++.
_COUNTED = os.path.join(_TORCH, "utils", "_stats.py")
# Where PyTorch makes a fake tensor of sizes and strides that it knows, in C++.
_MAKERS = frozenset({"__new__", "_get_output_tensor_from_cache_entry", "extract_tensor_metadata"})
_TENSORS = tuple(os.path.join(_TORCH, "_subclasses", name) for name in ("fake_tensor.py", "functional_tensor.py"))
# What lies between a question and its answer.
_MACHINERY = (os.path.join(_TORCH, "fx", "experimental", ""), os.path.join(_TORCH, "__init__.py"))


@contextmanager
def layouts_by_hint(shape_env: ShapeEnv | None = None) -> Iterator[None]:
    """Let operators choose strides by the sizes of the example, without a guard on them.

    A guard that compares sizes narrows their ranges for good, is an axiom from then on, and costs a proof.  What
    sizes are written by is noted all the same: where 4 divides s, a view of [s, 24] as [4, -1] has rows of
    24 * (s // 4).

    Args:
        shape_env: the one whose questions are answered; None for those of all.
    """
    asking = getattr(ShapeEnv, "_get_user_frame", None)
    if asking is None:
        # Not a public method. Where PyTorch has none, all its questions are held against calls.
        yield
        return

    def lays_out(asked: ShapeEnv, question: Any, hint: Any, frame: FrameType) -> bool:
        undecided = isinstance(hint, bool) and not isinstance(question, BooleanAtom)
        return undecided and (_makes_tensor(frame) or _is_answered_by_hint(asking(asked), question, hint))

    with answered_as_in_example(shape_env, lays_out):
        yield


def is_of_layout(file: str, name: str) -> bool:
    """Whether a function that asks about sizes lays out memory."""
    return name in _LAYOUT and file.startswith(_SHAPES)


def writes_no_size(file: str, name: str) -> bool:
    """Whether a function lays out memory, and sizes are written the same way whatever it is told."""
    return is_of_layout(file, name) and name not in _OF_VIEWS


def asker(guard: Any) -> tuple[str, str]:
    """The file and the function that a guard of a ``ShapeEnv`` comes from; empty where that is not known."""
    frame = getattr(getattr(guard, "sloc", None), "framework_loc", None)
    return str(getattr(frame, "filename", "")), str(getattr(frame, "name", ""))


def _makes_tensor(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename.startswith(_MACHINERY):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name in _MAKERS and frame.f_code.co_filename in _TENSORS


def _is_answered_by_hint(frame: FrameType | None, question: Any, hint: bool) -> bool:
    """Whether nothing but strides depends on what the example answers."""
    if frame is None or not frame.f_code.co_filename.startswith(_TORCH):
        return False
    file, name = frame.f_code.co_filename, frame.f_code.co_name
    if name in _OF_CHANNELS | _OF_NOTHING:
        return True
    noted = question if hint else ~question
    if file == _COUNTED:
        made = any(_name(argument) in _MADE_VIEWS for argument in frame.f_locals.get("args", ()))
        return made and isinstance(noted, sympy.Ne) and _is_of_strides(noted)
    if file in _CALLERS:
        operator = _called(frame)
        return operator in _OF_MEMORY or (operator in _VIEWS and _is_of_strides(question, noted))
    return is_of_layout(file, name) and (writes_no_size(file, name) or not isinstance(noted, sympy.Eq))


def _called(frame: FrameType) -> str | None:
    """The name of the operator that a frame of PyTorch calls."""
    return _name(frame.f_locals.get("func", frame.f_locals.get("self")))


def _name(called: Any) -> str | None:
    """The name of an operator; None for what is none."""
    name = getattr(getattr(called, "overloadpacket", called), "__name__", None)
    return name if isinstance(name, str) else None


def _is_of_strides(question: Any, noted: Any = None) -> bool:
    """Whether an operator asks what strides a view would have.

    Whether there are as many elements as there have to be it asks by equalities, and whether there are any, or one, by
    these numbers. A stride may be known: that of the rows of a table, of which a part was taken.
    """
    if not isinstance(question, sympy.Ne | sympy.Lt | sympy.Gt | sympy.Le | sympy.Ge):
        return False
    numbers = [side for side in question.args if side.is_Integer]
    # Of a number, a question that comes out as an equality may be one about elements after all.
    return not numbers or (numbers[0] > 1 and isinstance(question if noted is None else noted, sympy.Ne))


__all__ = ["asker", "is_of_layout", "layouts_by_hint", "writes_no_size"]
