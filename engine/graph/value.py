"""Values: the outputs of nodes, which is what rules talk about."""

from __future__ import annotations

from typing import NamedTuple

from torch import fx


class Value(NamedTuple):
    """Output ``index`` of ``node``.  A ``getitem`` node never appears in a value."""

    node: fx.Node
    index: int = 0  # type: ignore[assignment]  # shadows tuple.index, which nobody needs here

    def __repr__(self) -> str:
        return f"%{self.node.name}.{self.index}" if self.index else f"%{self.node.name}"
