"""How large rules files may be, so that every file is read or rejected in seconds.

The limits are far above what rules need: they are for files that are generated, damaged or meant to do harm.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

from engine.dsl import tree
from engine.dsl.diagnostics import Problems
from engine.errors import Span

LARGEST_FILE = 256 * 1024  # bytes
MOST_TOKENS = 30_000
MOST_FILES = 1_000
MOST_ENTRIES = 100_000  # of folders that are looked through for rules files
DEEPEST = 64  # levels of a syntax tree
LARGEST_NUMBER = 1 << 64
MOST_RULES = 8_000  # members of families counted one by one
MOST_MEMBERS = 1_000  # of a family
MOST_ROOTS = 8
MOST_PARTS = 400  # ops, captures and literals of a pattern
# Evaluation of macros and `let`s nests, and each level takes a few frames of Python's stack.
DEEPEST_EVALUATION = 160
LARGEST_EXPANSION = 100_000  # expressions of a rule with its macros written out
# Comparing rules takes about a microsecond a fact; the built-in ones take a tenth of a second.
MOST_COMPARED = 3_000_000


class Exhausted(Exception):
    """A limit is exceeded whose mistake is recorded, and checking goes no further."""


@dataclass(slots=True)
class Budget:
    """Work that checking may still do, in facts compared."""

    problems: Problems
    left: int = MOST_COMPARED

    def spend(self, amount: int, span: Span) -> None:
        """Take an amount of work.

        Raises:
            Exhausted: there is none left.
        """
        self.left -= amount
        if self.left < 0:
            message = "these rules are too many or too alike to be told apart in reasonable time"
            self.problems.report(message, span, "split patterns with many forms, or load fewer rules of one op")
            raise Exhausted


def depth(item: object) -> int:
    """The number of levels of a syntax tree, counted without recursion."""
    deepest = 0
    waiting = [(item, 0)]
    while waiting:
        current, above = waiting.pop()
        if isinstance(current, tree.Node):
            deepest = max(deepest, above + 1)
            parts = (getattr(current, name) for name in current.__dataclass_fields__ if name != "span")
            waiting.extend((part, above + 1) for part in parts)
        elif isinstance(current, tuple):
            waiting.extend((part, above) for part in current)
    return deepest


@dataclass(frozen=True, slots=True)
class Extent:
    """How much evaluating an expression takes: expressions in all, and how deep they nest."""

    size: int = 0
    depth: int = 0


class Extents:
    """Extents of rules with their macros written out."""

    def __init__(
        self, macros: Mapping[str, tree.Macro], calls: Mapping[str, Sequence[str]], known: Container[str] = ()
    ) -> None:
        """Work the macros out.

        Args:
            calls: macros that each macro calls, but for the known ones.
            known: macros that are within the limits; they are worked out where something calls them.
        """
        self._macros = macros
        self._known = known
        self.of_macros: dict[str, Extent] = {}
        for name in _callees_first(calls):
            if name in macros and name not in known:
                self.of_macros[name] = self._of_definition(macros[name])

    def _of_macro(self, name: str) -> Extent | None:
        if name not in self.of_macros and name in self._known:
            self.of_macros[name] = self._of_definition(self._macros[name])
        return self.of_macros.get(name)

    def _of_definition(self, macro: tree.Macro) -> Extent:
        defaults = [self._of(p.default, {}) for p in macro.parameters if p.default is not None]
        body = self._of(macro.body, {})
        return Extent(body.size + sum(d.size for d in defaults), max(body.depth, *(d.depth for d in defaults), 0))

    def of_rule(self, item: tree.RuleItem) -> Extent:
        """The extent of the guards, names and right side of a rule."""
        names: dict[str, int] = {}
        size = deepest = 0
        for step in (*item.steps, item.emit, *((item.decreases,) if item.decreases is not None else ())):
            found = self._of(step.value if isinstance(step, tree.Let | tree.Guard) else step, names)
            size, deepest = size + found.size, max(deepest, found.depth)
            if isinstance(step, tree.Let) and step.target.name is not None:
                names[step.target.name] = found.depth
        return Extent(size, deepest)

    def _of(self, item: object, names: Mapping[str, int]) -> Extent:
        """The extent of an expression; ``names`` are evaluated when first read, as deep as given."""
        if isinstance(item, tuple):
            parts = [self._of(part, names) for part in item]
            return Extent(sum(p.size for p in parts), max((p.depth for p in parts), default=0))
        if not isinstance(item, tree.Node):
            return Extent()
        if isinstance(item, tree.Name):
            return Extent(1, 1 + names.get(item.name, 0))
        parts = [self._of(getattr(item, name), names) for name in item.__dataclass_fields__ if name != "span"]
        size, deepest = 1 + sum(p.size for p in parts), max((p.depth for p in parts), default=0)
        # `loop` calls the macro that it is given.
        called = (item.function, *item.arguments[:1]) if isinstance(item, tree.Call) else ()
        for function in called:
            body = self._of_macro(function.name) if isinstance(function, tree.Name) else None
            if body is not None:
                size, deepest = size + body.size, max(deepest, body.depth)
        return Extent(size, 1 + deepest)


def _callees_first(calls: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Names, each behind those that it calls; in a circle somewhere between."""
    done: set[str] = set()
    for start in calls:
        waiting = [(start, False)]
        while waiting:
            name, called = waiting.pop()
            if called:
                yield name
            elif name not in done:
                done.add(name)
                waiting.append((name, True))
                waiting.extend((other, False) for other in calls.get(name, ()) if other not in done)


__all__ = ["Budget", "Exhausted", "Extent", "Extents", "depth"]
