"""The radius of patterns: which nodes can have a new match after a change."""

from __future__ import annotations

from collections.abc import Sequence

from engine.dsl.checks.facts import looks
from engine.dsl.forms import ops_in, within
from engine.dsl.memo import Recent
from engine.dsl.rule import ArgumentPattern, OpMatch, Rule


class Reach:
    """Depths of the patterns of a set of rules.

    Attributes:
        depth: the largest number of edges between a root and a node that its rule looks at.
        size: the largest number of ops in a pattern.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._by_op: dict[str, int] = {}
        self.size = 0
        for rule in rules:
            known = rule.facts
            beyond = looks(rule) if known is None else known.looks
            ops = [op for root in rule.roots for op in ops_in(root)]
            self.size = max(self.size, len(ops))
            # A multi-root match depends on what surrounds any of its roots.
            depth = beyond + max(map(_depth, rule.roots))
            for root in rule.roots:
                self._by_op[root.op] = max(self._by_op.get(root.op, 0), depth)
        self.depth = max(self._by_op.values(), default=0)

    def of(self, op: str) -> int:
        """How many edges away from a node of this op a change can matter; -1 if no rule is rooted at the op."""
        return self._by_op.get(op, -1)


def _depth(pattern: ArgumentPattern) -> int:
    """Edges from the root to the deepest argument: a captured operand lies one edge below its op."""
    return isinstance(pattern, OpMatch) + max(map(_depth, within(pattern)), default=0)


reach = Recent(Reach)
