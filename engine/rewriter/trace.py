"""What the rewriter did: every application of a rule, and counters per rule."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Application:
    """One rewrite.

    Attributes:
        rule: id of the rule, or ``torch decomposition``.
        where: ``file:line`` of the rule.
        kind: ``simplify``, ``lower`` or ``decompose``.
        roots: names of the nodes that were replaced.
        matched: names of all matched nodes, in graph order.
        new: names of the inserted nodes, in graph order.
    """

    rule: str
    where: str
    kind: str
    roots: tuple[str, ...]
    matched: tuple[str, ...]
    new: tuple[str, ...]

    def __str__(self) -> str:
        interior = [name for name in self.matched if name not in self.roots]
        old = ", ".join(self.roots) + (f" with {', '.join(interior)}" if interior else "")
        return f"{self.kind} {self.rule} ({self.where}): {old} -> {', '.join(self.new) or 'an existing value'}"


@dataclass(slots=True)
class Counter:
    """How often one rule was looked at.

    Attributes:
        matches: times its pattern fitted, so that its guards were evaluated.
        applications: times it was applied.
        seconds: time in its guards, its right side and the edits.
        failures: why it did not apply although its pattern fitted, with how often.
    """

    matches: int = 0
    applications: int = 0
    seconds: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)


class Trace:
    """A record of rewriting.

    Two compilations of the same graph with the same rules give the same ``applications``; only the times differ.

    Args:
        limit: keep only the newest applications; all of them by default.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._applications: deque[Application] = deque(maxlen=limit)
        self.counters: dict[str, Counter] = {}
        self.visited = 0

    @property
    def applications(self) -> tuple[Application, ...]:
        """The rewrites, oldest first."""
        return tuple(self._applications)

    def counter(self, rule: str) -> Counter:
        """The counter of a rule."""
        found = self.counters.get(rule)
        if found is None:
            found = self.counters[rule] = Counter()
        return found

    def applied(self, application: Application) -> None:
        """Record a rewrite."""
        self._applications.append(application)
        self.counter(application.rule).applications += 1

    def last(self, count: int) -> tuple[Application, ...]:
        """The newest rewrites, oldest first."""
        return self.applications[-count:]

    def table(self) -> Iterator[tuple[str, int, int, float]]:
        """``(rule, matches, applications, milliseconds)`` per rule, slowest first."""
        ordered = sorted(self.counters.items(), key=lambda item: (-item[1].seconds, item[0]))
        for rule, counter in ordered:
            yield rule, counter.matches, counter.applications, counter.seconds * 1e3

    def __str__(self) -> str:
        return "\n".join(map(str, self._applications))

    def summary(self) -> str:
        """The counters as text."""
        lines = [f"{self.visited} nodes visited"]
        lines += (
            f"{rule}: {matches} matches, {applications} applications, {milliseconds:.1f} ms"
            for rule, matches, applications, milliseconds in self.table()
        )
        return "\n".join(lines)


def listed(applications: Iterable[Application]) -> str:
    """Applications for an error message, one per line."""
    return "\n".join(f"  {application}" for application in applications)
