"""Tiling, colouring and segments: which node runs where, decided once."""

from engine.partitioner.coloring import Color
from engine.partitioner.segments import Partition, Segment, partition
from engine.partitioner.tile import Tile
from engine.partitioner.tiling import Rejections, Tiling, tile

__all__ = ["Color", "Partition", "Rejections", "Segment", "Tile", "Tiling", "partition", "tile"]
