"""Stages of knowledge about sizes, in each of which a rule is tried."""

from __future__ import annotations

from typing import Literal, TypeAlias

Stage: TypeAlias = Literal["known", "marked", "all"]
"""Which sizes are symbolic: none; those that the line marks; any or all of those that meet no constant or number."""

STAGES: tuple[Stage, ...] = ("known", "marked", "all")

__all__ = ["STAGES", "Stage"]
