"""The worklist: nodes to look at, inputs first."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from torch import fx

_Key = tuple[int, ...]


class Worklist:
    """A set of nodes that is read in graph order, also while the graph changes.

    Pushing and popping cost O(log n).  A node is held at most once.  Erased nodes are skipped, and a node
    that moved since it was pushed is put back where it now belongs.
    """

    def __init__(self, nodes: Iterable[fx.Node] = ()) -> None:
        self._heap: list[tuple[_Key, fx.Node]] = [(node._sort_key, node) for node in nodes]
        self._held = {node for _, node in self._heap}
        heapq.heapify(self._heap)

    def push(self, node: fx.Node) -> None:
        """Add a node unless it is already held."""
        if node not in self._held:
            self._held.add(node)
            heapq.heappush(self._heap, (node._sort_key, node))

    def pop(self) -> fx.Node | None:
        """Take out the first node in graph order; None when there is none left."""
        while self._heap:
            key, node = heapq.heappop(self._heap)
            if node._erased:
                self._held.discard(node)
            elif node._sort_key != key:
                heapq.heappush(self._heap, (node._sort_key, node))
            else:
                self._held.discard(node)
                return node
        return None

    def __bool__(self) -> bool:
        while self._heap and self._heap[0][1]._erased:
            self._held.discard(heapq.heappop(self._heap)[1])
        return bool(self._heap)

    def __len__(self) -> int:
        return len(self._held)
