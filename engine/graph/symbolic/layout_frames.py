"""Which of PyTorch's questions about sizes lay out memory: no value depends on them."""

from __future__ import annotations

import os
from typing import Any

import torch

_TORCH = os.path.join(os.path.dirname(torch.__file__), "")
# Functions that choose strides and the steps of a view; what a view may be is asked elsewhere.
_SHAPES = tuple(os.path.join(_TORCH, name, "") for name in ("_prims", "_prims_common", "_refs", "_subclasses"))
_LAYOUT = frozenset(
    {
        "__lt__",
        "_collapse_view_helper",
        "_reshape_view_helper_core_alg",
        "are_strides_like_channels_last_or_false",
        "check_contiguous_sizes_strides",
        "ge",
        "is_channels_last_contiguous_2d",
        "is_channels_last_contiguous_3d",
        "is_contiguous",
        "is_non_overlapping_and_dense",
    }
)


# Those among them that also write sizes: where 4 divides s, a view of [s, 24] as [4, -1] has rows of 24 * (s // 4).
_OF_VIEWS = frozenset({"_collapse_view_helper", "_reshape_view_helper_core_alg"})


def is_of_layout(frame: Any) -> bool:
    """Whether a guard of a ``ShapeEnv`` comes from a frame that lays out memory."""
    return getattr(frame, "name", None) in _LAYOUT and str(frame.filename).startswith(_SHAPES)


def writes_no_size(frame: Any) -> bool:
    """Whether a guard comes from a frame that lays out memory, and sizes are written the same way without it."""
    return is_of_layout(frame) and frame.name not in _OF_VIEWS


__all__ = ["is_of_layout", "writes_no_size"]
