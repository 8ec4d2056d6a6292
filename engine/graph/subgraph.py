"""Graphs that ops of a graph run: the sides of ``torch.cond``, the bodies of loops."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx


@dataclass(frozen=True, slots=True, eq=False)
class Subgraph:
    """A graph that a higher-order op takes as an argument, as it was captured.

    Rules see it where they ascribe ``graph``.  What becomes of it when a rule runs it is an
    :class:`engine.lowering.subgraphs.LoweredSubgraph`.

    Attributes:
        name: the attribute that holds it; graphs inside graphs have the names of both.
        module: the graph; PyTorch runs it where the op stays there.
    """

    name: str
    module: fx.GraphModule

    def __repr__(self) -> str:
        return f"graph {self.name}"


__all__ = ["Subgraph"]
