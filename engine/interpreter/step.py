"""Steps: layers of a network as plain data, and the blocks and regions they are arranged in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """One layer.

    Attributes:
        name: the layer's name.
        type: the name of its ``LayerType``; ``ATTENTION`` stands for the two boundary layers of an attention.
        inputs: the values it reads, None for an optional input that is not set.
        outputs: the values it defines.
        attributes: its attributes: ints, floats, strings, tuples, tensors, enum members by name.
        metadata: the layer's metadata, as the network's author set it.
        output_types: the data type TensorRT infers for each output, by name.
        output_shapes: the shape TensorRT infers for each output, -1 for a dynamic size, None if unknown.
    """

    name: str
    type: str
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    attributes: Mapping[str, Any]
    metadata: str
    output_types: tuple[str, ...]
    output_shapes: tuple[tuple[int, ...] | None, ...]

    def __getitem__(self, attribute: str) -> Any:
        return self.attributes[attribute]


@dataclass(frozen=True)
class Region:
    """A loop or an if-conditional: its boundary layers and the block between them.

    ``kind`` is ``loop`` or ``conditional``.  ``inputs`` are the values read from outside, ``outputs`` the
    values it defines for the outside.
    """

    kind: str
    name: str
    boundary: tuple[Step, ...]
    body: Block
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """Steps and regions in an order that respects their data dependencies.

    ``releases[i]`` are the values that nothing reads after ``nodes[i]``.
    """

    nodes: tuple[Step | Region, ...]
    releases: tuple[tuple[int, ...], ...]
