"""Paths: places in a match, named relative to its roots, and the frame that looks them up."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import torch

from engine.graph.mirror import Mirror, Value


class Kind(IntEnum):
    """How a path continues its parent."""

    ROOT = 0  # root number `index` of the pattern
    ARGUMENT = 1  # argument at schema position `index`
    ELEMENT = 2  # list element; negative indices count from the end
    DIM = 3  # size of axis `index`; negative axes count from the end
    SLICE = 4  # list elements without the first `index[0]` and the last `index[1]`
    OTHERS = 5  # arguments at schema positions not in `index`
    OUTPUT = 6  # output `index` of the node


class _Marker:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


MISSING: Final[Any] = _Marker("nothing")  # the path leads nowhere in this graph
_UNSET: Final[Any] = _Marker("unset")


class PathTable:
    """Hash-consed paths: equal paths of different rules have the same number, parents lower than children."""

    def __init__(self) -> None:
        self.entries: list[tuple[Kind, int, Any]] = []
        self.roots: list[int] = []  # root path of each path
        self._numbers: dict[tuple[Kind, int, Any], int] = {}

    def path(self, kind: Kind, parent: int, index: Any) -> int:
        """The number of a path."""
        key = (kind, parent, index)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.entries)
            self.entries.append(key)
            self.roots.append(number if kind is Kind.ROOT else self.roots[parent])
        return number

    def root(self, number: int) -> int:
        """The path of a root; number 0 is the node that matching starts from."""
        return self.path(Kind.ROOT, -1, number)


class Frame:
    """What the paths lead to in one attempt to match; found on demand, once."""

    __slots__ = ("mirror", "registers", "table")

    def __init__(self, mirror: Mirror, table: PathTable, registers: list[Any] | None = None) -> None:
        self.mirror = mirror
        self.table = table
        self.registers = [_UNSET] * len(table.entries) if registers is None else registers

    def branch(self) -> Frame:
        """A copy that can be filled without changing this frame."""
        return Frame(self.mirror, self.table, list(self.registers))

    def get(self, path: int) -> Any:
        """The value, number, tuple or None a path leads to, or ``MISSING``."""
        found = self.registers[path]
        if found is _UNSET:
            found = self.registers[path] = self._find(*self.table.entries[path])
        return found

    def node_value(self, path: int) -> Value:
        """The value at the path of an op pattern that matched."""
        value = self.get(path)
        assert isinstance(value, Value)
        return value

    def _find(self, kind: Kind, parent: int, index: Any) -> Any:
        if kind is Kind.ROOT:
            return MISSING
        base = self.get(parent)
        if kind is Kind.ARGUMENT:
            if isinstance(base, Value):
                arguments = self.mirror.arguments(base.node)
                if index < len(arguments):
                    return arguments[index]
            return MISSING
        if kind is Kind.DIM:
            if isinstance(base, Value) and isinstance(self.mirror.fake(base), torch.Tensor):
                return _element(self.mirror.shape(base), index)
            return MISSING
        if kind is Kind.ELEMENT:
            return _element(base, index) if _is_list(base) else MISSING
        if kind is Kind.SLICE:
            return base[index[0] : len(base) - index[1]] if _is_list(base) else MISSING
        if not isinstance(base, Value):
            return MISSING
        if kind is Kind.OUTPUT:
            return Value(base.node, index)
        arguments = self.mirror.arguments(base.node)
        return tuple(argument for position, argument in enumerate(arguments) if position not in index)


def _is_list(value: Any) -> bool:
    return isinstance(value, tuple) and not isinstance(value, Value)


def _element(items: tuple[Any, ...], index: int) -> Any:
    return items[index] if -len(items) <= index < len(items) else MISSING
