"""Tiling, colouring and segments: which node runs where, decided once."""

from engine.partitioner.segments import Partition, Segment, partition
from engine.partitioner.tile import Tile
from engine.partitioner.tiling import Refusals, Tiling, tile

__all__ = ["Partition", "Refusals", "Segment", "Tile", "Tiling", "partition", "tile"]
