"""The outcome of checking a set of rules files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from engine.dsl import tree
from engine.dsl.rule import Layer, Rule
from engine.errors import Span


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
        before: by rank of a rule the ranks of those that come later because of it; of built-in rules.
        definitions: macros, host functions, layers and patterns of each file as they were parsed; of built-in rules.
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
    before: tuple[tuple[int, ...], ...] = ()
    definitions: tuple[Definitions, ...] = ()


Definitions: TypeAlias = (
    "tuple[tuple[tree.Macro, ...], tuple[tree.Extern, ...], tuple[tree.LayerItem, ...], tuple[tree.PatternItem, ...]]"
)
