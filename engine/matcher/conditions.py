"""Conditions: what a pattern asks of the places its paths lead to.

A condition is a value.  Equal conditions of different rules are one step of the automaton.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import sympy

from engine.dsl import tree
from engine.graph.mirror import Value
from engine.matcher.fitting import conforms, fits, same
from engine.matcher.paths import MISSING, Frame
from engine.matcher.wording import show
from engine.sizes import is_known

_RELATIVE = 1e-6


@dataclass(frozen=True, slots=True)
class Condition:
    """Base of all conditions; ``path`` is the place a near miss is reported at."""

    path: int
    cost: ClassVar[int] = 0  # conditions of lower cost are checked first

    def holds(self, frame: Frame) -> bool:
        """Whether the graph satisfies it."""
        raise NotImplementedError

    def expected(self, frame: Frame) -> str:
        """What the rule asks for."""
        raise NotImplementedError

    def actual(self, frame: Frame) -> str:
        """What the graph has."""
        return show(frame.mirror, frame.get(self.path))


@dataclass(frozen=True, slots=True)
class IsOp(Condition):
    """The place holds output ``output`` of an ``op`` node (any output if None)."""

    op: str
    output: int | None
    cost: ClassVar[int] = 0

    def holds(self, frame: Frame) -> bool:
        value = frame.get(self.path)
        return (
            isinstance(value, Value)
            and frame.mirror.op(value.node) == self.op
            and (self.output is None or value.index == self.output)
        )

    def expected(self, frame: Frame) -> str:
        return f"{self.op}.{self.output}" if self.output else self.op


@dataclass(frozen=True, slots=True)
class Length(Condition):
    """The place holds a list of exactly, or at least, ``count`` elements."""

    count: int
    exact: bool
    cost: ClassVar[int] = 1

    def holds(self, frame: Frame) -> bool:
        value = frame.get(self.path)
        if not isinstance(value, tuple) or isinstance(value, Value):
            return False
        return len(value) == self.count if self.exact else len(value) >= self.count

    def expected(self, frame: Frame) -> str:
        return f"a list of {'' if self.exact else 'at least '}{self.count}"


@dataclass(frozen=True, slots=True)
class IsLiteral(Condition):
    """The place holds a number, string, dtype or None; ``sort`` keeps ``1``, ``1.0`` and ``true`` apart."""

    value: Any
    sort: type
    approximate: bool
    cost: ClassVar[int] = 2

    def holds(self, frame: Frame) -> bool:
        actual, expected = frame.get(self.path), self.value
        if actual is MISSING:
            return False
        if isinstance(expected, bool) or isinstance(actual, bool):
            return expected is actual
        if isinstance(expected, int | float):
            if isinstance(actual, int | float):
                if self.approximate:
                    return bool(abs(actual - expected) <= _RELATIVE * abs(expected))
                return bool(actual == expected)
            return isinstance(actual, sympy.Expr) and frame.mirror.sizes.equal(actual, expected)
        return type(expected) is type(actual) and bool(expected == actual)

    def expected(self, frame: Frame) -> str:
        return ("~" if self.approximate else "") + show(frame.mirror, self.value)


@dataclass(frozen=True, slots=True)
class HasType(Condition):
    """The place holds a tensor of one of the dtypes, or a scalar of one of the sorts."""

    names: tuple[str, ...]
    tensor: bool  # a shape was ascribed, so scalars do not fit
    static: bool
    optional: bool
    cost: ClassVar[int] = 3

    def holds(self, frame: Frame) -> bool:
        value = frame.get(self.path)
        if value is None:
            return self.optional
        if value is MISSING or (self.static and not is_known(value)):
            return False
        return fits(frame.mirror, value, self.names, self.tensor)

    def expected(self, frame: Frame) -> str:
        text = ("static " if self.static else "") + "|".join(self.names)
        return f"{text} tensor" if self.tensor and self.names != ("tensor",) else text


@dataclass(frozen=True, slots=True)
class HasRank(Condition):
    """The tensor has exactly, or at least, ``count`` dims."""

    count: int
    exact: bool
    optional: bool
    cost: ClassVar[int] = 4

    def holds(self, frame: Frame) -> bool:
        value = frame.get(self.path)
        if not isinstance(value, Value):
            return value is None and self.optional
        rank = frame.mirror.rank(value)
        return rank == self.count if self.exact else rank >= self.count

    def expected(self, frame: Frame) -> str:
        return f"rank {self.count}" + ("" if self.exact else " or more")


@dataclass(frozen=True, slots=True)
class DimWithin(Condition):
    """A dim is certainly between ``low`` and ``high``, both included."""

    low: int
    high: int
    optional: bool
    cost: ClassVar[int] = 5

    def holds(self, frame: Frame) -> bool:
        size = frame.get(self.path)
        if size is MISSING:
            return self.optional  # the rank was checked, so the tensor itself is absent
        if isinstance(size, int):
            return self.low <= size <= self.high
        low, high = frame.mirror.sizes.range(size)
        if low is not None and high is not None and self.low <= low and high <= self.high:
            return True
        return self.low == self.high and frame.mirror.sizes.equal(size, self.low)

    def expected(self, frame: Frame) -> str:
        return str(self.low) if self.low == self.high else f"a size in {self.low}..{self.high}"


@dataclass(frozen=True, slots=True)
class HasListType(Condition):
    """The place holds a list whose elements have a type."""

    type: tree.Type
    cost: ClassVar[int] = 6

    def holds(self, frame: Frame) -> bool:
        value = frame.get(self.path)
        return value is not MISSING and conforms(frame.mirror, value, self.type)

    def expected(self, frame: Frame) -> str:
        return str(self.type)


@dataclass(frozen=True, slots=True)
class AllSame(Condition):
    """All places hold the same value; with ``partial``, places that lead nowhere do not count."""

    others: tuple[int, ...]
    partial: bool
    cost: ClassVar[int] = 7

    def holds(self, frame: Frame) -> bool:
        first = frame.get(self.path)
        for path in self.others:
            other = frame.get(path)
            if self.partial and (first is MISSING or other is MISSING):
                first = other if first is MISSING else first
            elif not same(frame.mirror, first, other):
                return False
        return True

    def expected(self, frame: Frame) -> str:
        places = ", ".join(show(frame.mirror, frame.get(path)) for path in self.others)
        return f"the same as {places}"


@dataclass(frozen=True, slots=True)
class IsConst(Condition):
    """The tensor is known at compile time; numbers are."""

    optional: bool
    cost: ClassVar[int] = 8

    def holds(self, frame: Frame) -> bool:
        value = frame.get(self.path)
        if isinstance(value, Value):
            return frame.mirror.is_const(value)
        return self.optional if value is None else is_known(value)

    def expected(self, frame: Frame) -> str:
        return "a constant"


@dataclass(frozen=True, slots=True)
class OnlyOutput(Condition):
    """No output of the node at ``path`` other than ``output`` is used."""

    output: int
    cost: ClassVar[int] = 9

    def _used(self, frame: Frame) -> list[Value]:
        mirror, node = frame.mirror, frame.node_value(self.path).node
        return [v for v in mirror.outputs(node) if v.index != self.output and not mirror.unused(v)]

    def holds(self, frame: Frame) -> bool:
        return not self._used(frame)

    def expected(self, frame: Frame) -> str:
        return f"only output {self.output} in use"

    def actual(self, frame: Frame) -> str:
        return ", ".join(f"output {value.index} is used" for value in self._used(frame))


@dataclass(frozen=True, slots=True)
class IsExclusive(Condition):
    """Every user of the interior node at ``path`` is inside the match; constants are shared freely."""

    nodes: tuple[int, ...]  # paths of all op patterns
    roots: tuple[int, ...]
    cost: ClassVar[int] = 10

    def _outside(self, frame: Frame) -> Any:
        node = frame.node_value(self.path).node
        inside = [frame.node_value(path).node for path in self.nodes]
        for user in frame.mirror.each_user(node):
            if user not in inside:
                return user
        return None

    def holds(self, frame: Frame) -> bool:
        value = frame.node_value(self.path)
        return (
            self._outside(frame) is None
            or any(value.node is frame.node_value(root).node for root in self.roots)
            or frame.mirror.is_const(value)
        )

    def expected(self, frame: Frame) -> str:
        return "no other user (write & before the op to allow them)"

    def actual(self, frame: Frame) -> str:
        return f"{frame.node_value(self.path).node.name} is also used by {self._outside(frame).name}"


@dataclass(frozen=True, slots=True)
class AreDistinct(Condition):
    """The roots are different nodes."""

    roots: tuple[int, ...]
    cost: ClassVar[int] = 11

    def holds(self, frame: Frame) -> bool:
        return len({frame.node_value(path).node for path in self.roots}) == len(self.roots)

    def expected(self, frame: Frame) -> str:
        return "different nodes for the roots"

    def actual(self, frame: Frame) -> str:
        return ", ".join(frame.node_value(path).node.name for path in self.roots)


@dataclass(frozen=True, slots=True)
class IsBefore(Condition):
    """Of two interchangeable roots the one at ``path`` comes first, so that a match is found once."""

    other: int
    cost: ClassVar[int] = 12

    def holds(self, frame: Frame) -> bool:
        return bool(frame.node_value(self.path).node < frame.node_value(self.other).node)

    def expected(self, frame: Frame) -> str:
        return "roots in graph order"


@dataclass(frozen=True, slots=True)
class IsConvex(Condition):
    """No path leaves the replaced nodes and comes back; needed when there are several roots."""

    nodes: tuple[int, ...]  # roots and exclusive interior nodes
    cost: ClassVar[int] = 13

    def holds(self, frame: Frame) -> bool:
        mirror = frame.mirror
        values = [frame.node_value(path) for path in self.nodes]
        return mirror.convex([value.node for value in values if not mirror.is_const(value)])

    def expected(self, frame: Frame) -> str:
        return "roots that do not depend on each other through other nodes"

    def actual(self, frame: Frame) -> str:
        return "a path leaves the match and returns to it"
