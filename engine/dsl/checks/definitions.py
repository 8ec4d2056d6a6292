"""Macros, host functions and layers, as calls in expressions are checked against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from engine.dsl import tree
from engine.dsl.checks.layers import LayerTable
from engine.dsl.checks.patterns.named_patterns import NamedPatterns
from engine.errors import Span


@dataclass(slots=True)
class Effects:
    """What an expression calls, each with the first place that does.

    Attributes:
        ops: full overload names.
        unloaded: ops of namespaces that this process has not loaded, as written.
    """

    ops: dict[str, Span] = field(default_factory=dict)
    layers: dict[str, Span] = field(default_factory=dict)
    hosts: dict[str, Span] = field(default_factory=dict)
    macros: dict[str, Span] = field(default_factory=dict)
    unloaded: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Definitions:
    """Everything that can be called by name, besides ops and builtins.

    Attributes:
        effects: of macros, without those of the macros that they call; of those that were checked before, once they are
            asked for.
        derive: finds the effects of such a macro.
    """

    macros: Mapping[str, tree.Macro]
    externs: Mapping[str, tree.Extern]
    layers: LayerTable
    patterns: NamedPatterns
    derive: Callable[[tree.Macro], Effects]
    effects: dict[str, Effects] = field(default_factory=dict)

    def effects_of(self, macro: str) -> Effects | None:
        """The effects of a macro, None if there is none of the name."""
        if macro not in self.effects and macro in self.macros:
            self.effects[macro] = self.derive(self.macros[macro])
        return self.effects.get(macro)

    def reached(self, effects: Effects) -> Iterator[tuple[str, Effects, Span]]:
        """The macros that an expression calls, directly or not, with the place of the direct call."""
        seen: set[str] = set()
        for name, span in effects.macros.items():
            waiting = [name]
            while waiting:
                current = waiting.pop()
                found = None if current in seen else self.effects_of(current)
                if found is None:
                    continue
                seen.add(current)
                yield current, found, span
                waiting.extend(found.macros)

    def closure(self, effects: Effects) -> Effects:
        """Effects with those of all macros called."""
        total = Effects(
            dict(effects.ops), dict(effects.layers), dict(effects.hosts), dict(effects.macros), set(effects.unloaded)
        )
        for name, reached, span in self.reached(effects):
            total.macros.setdefault(name, span)
            for op in reached.ops:
                total.ops.setdefault(op, span)
            for layer in reached.layers:
                total.layers.setdefault(layer, span)
            for host in reached.hosts:
                total.hosts.setdefault(host, span)
            total.unloaded |= reached.unloaded
        return total
