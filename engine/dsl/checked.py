"""The outcome of checking a set of rules files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from engine.dsl import tree
from engine.dsl.rule import Layer, Rule
from engine.errors import Span

Item = TypeVar("Item")


class Joined(Mapping[str, Item]):
    """Two mappings as one, the first one's names first; neither is copied or read.  They have no name in common."""

    def __init__(self, first: Mapping[str, Item], second: Mapping[str, Item]) -> None:
        self._parts = (first, second)

    def __getitem__(self, name: str) -> Item:
        first, second = self._parts
        return first[name] if name in first else second[name]

    def __contains__(self, name: object) -> bool:
        return any(name in part for part in self._parts)

    def __iter__(self) -> Iterator[str]:
        return itertools.chain(*self._parts)

    def __len__(self) -> int:
        return sum(map(len, self._parts))


@dataclass(frozen=True, slots=True)
class Checked:
    """What a set of files means.

    Attributes:
        rules: active rules in precedence order.
        inactive: rules that the installed TensorRT or the loaded packages cannot serve, with the reason.
        overridden: pairs of a rule's id and the id of a lower-level rule that it takes precedence over.
        patterns: named patterns, which rules hold written out.
        foreign: ops of other packages that rules name, with their schema, None where they are not loaded.
        emitted: by the id of each ``lower`` rule the ops that it emits, with the place; of built-in rules.
        absent: declared layers that the installed TensorRT lacks, with the reason, by name.
        before: by rank of a rule the ranks of those that come later because of it; of built-in rules.
        declared: layers as they were parsed; of built-in rules.
    """

    rules: tuple[Rule, ...]
    inactive: tuple[tuple[Rule, str], ...]
    layers: Mapping[str, Layer]
    macros: Mapping[str, tree.Macro]
    externs: Mapping[str, tree.Extern]
    overridden: tuple[tuple[str, str], ...]
    foreign: Mapping[str, str | None] = field(default_factory=dict)
    patterns: Mapping[str, tree.PatternItem] = field(default_factory=dict)
    emitted: Mapping[str, Mapping[str, Span]] = field(default_factory=dict)
    absent: Mapping[str, tuple[str, Layer]] = field(default_factory=dict)
    before: tuple[tuple[int, ...], ...] = ()
    declared: Sequence[tree.LayerItem] = ()
