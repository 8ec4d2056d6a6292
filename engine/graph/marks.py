"""Marks on nodes that one part of the compiler makes and another reads: keys of ``node.meta``, and an op."""

from __future__ import annotations

import torch

BOUNDARY_CAST = "boundary_cast"
"""On a cast that a setting inserted where values enter or leave: why it is there.  Such casts stay in PyTorch."""

TORCH_SEGMENT = "torch_segment"
"""On a node of an assembled graph that PyTorch runs: the name of its segment."""

WRITE = torch.ops.aten.copy_.default
"""Data about PyTorch: the op by which an assembled graph writes a new value to a state or an input."""

__all__ = ["BOUNDARY_CAST", "TORCH_SEGMENT", "WRITE"]
