"""The outcome of checking a set of rules files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.dsl import tree
from engine.dsl.rule import Layer, Rule


@dataclass(frozen=True, slots=True)
class Checked:
    """What a set of files means.

    Attributes:
        rules: active rules in precedence order.
        inactive: rules that the installed TensorRT or the loaded packages cannot serve, with the reason.
        overridden: pairs of a rule's id and the id of a lower-level rule that it takes precedence over.
        patterns: named patterns, which rules hold written out.
        foreign: ops of other packages that rules name, with their schema, None where they are not loaded.
    """

    rules: tuple[Rule, ...]
    inactive: tuple[tuple[Rule, str], ...]
    layers: Mapping[str, Layer]
    macros: Mapping[str, tree.Macro]
    externs: Mapping[str, tree.Extern]
    overridden: tuple[tuple[str, str], ...]
    foreign: Mapping[str, str | None] = field(default_factory=dict)
    patterns: Mapping[str, tree.PatternItem] = field(default_factory=dict)
