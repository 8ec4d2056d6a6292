"""Marks on nodes: keys of ``node.meta`` that one part of the compiler writes and another reads."""

from __future__ import annotations

BOUNDARY_CAST = "boundary_cast"
"""On a cast that a setting inserted where values enter or leave: why it is there.  Such casts stay in PyTorch."""

__all__ = ["BOUNDARY_CAST"]
