"""Matches, and near misses that say why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from engine.dsl.rule import Rule
from engine.errors import Span
from engine.matcher.conditions import Condition
from engine.matcher.paths import Frame
from engine.matcher.wording import place


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """A place in the graph that a rule's pattern fits; guards are not evaluated.

    Attributes:
        bindings: captured names: :class:`engine.graph.value.Value` for tensors, symbolic ints, tuples, scalars;
            None where an optional op or argument is absent.
        roots: the matched roots, in the order written.
        nodes: all matched nodes, roots included, in graph order.
        shared: those of ``nodes`` that stay for other users: constants, and interior nodes written with ``&``
            that have such users.
        expansion: which of the pattern's plain forms fits (:func:`engine.dsl.expansion.expand`).
    """

    rule: Rule
    bindings: Mapping[str, Any]
    roots: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]
    shared: tuple[fx.Node, ...] = ()
    expansion: int = 0

    def __str__(self) -> str:
        return f"{self.rule.id} at {', '.join(node.name for node in self.roots)}"


@dataclass(frozen=True, slots=True, eq=False)
class NearMiss:
    """How far a rule got at a node, and the first condition that failed.

    Attributes:
        passed: the number of conditions that held before.
        condition: the condition that failed; None when the whole pattern fits.
        span: the place in the rule that asks for it.
        guard: what the caller's guard check said, when the pattern fits.
        others: what other forms of the pattern, which got as far, ask for at the same place.
    """

    rule: Rule
    node: fx.Node
    passed: int
    condition: Condition | None = None
    span: Span | None = None
    frame: Frame | None = None
    guard: str | None = None
    reason: str | None = None
    others: tuple[str, ...] = ()

    @property
    def matched(self) -> bool:
        """Whether the pattern fits and no guard objected."""
        return self.condition is None and self.guard is None and self.reason is None

    @property
    def expected(self) -> str:
        """What the rule asks for at the place that failed."""
        if self.condition is None or self.frame is None:
            return ""
        return self.condition.expected(self.frame)

    @property
    def actual(self) -> str:
        """What the graph has there."""
        if self.condition is None or self.frame is None:
            return ""
        return self.condition.actual(self.frame)

    @property
    def where(self) -> str:
        """The place in the graph, in words."""
        if self.condition is None or self.frame is None:
            return self.node.name
        return place(self.frame, self.condition.path)

    def __str__(self) -> str:
        head = f"{self.rule.id} at {self.node.name}: "
        if self.reason is not None:
            return head + self.reason
        if self.guard is not None:
            return f"{head}the pattern fits, but {self.guard}"
        if self.condition is None:
            return head + "matches"
        span = f" ({self.span})" if self.span is not None else ""
        expected = " or ".join(dict.fromkeys([self.expected, *self.others]))
        return f"{head}{self.where}: expected {expected}, found {self.actual}{span}"
