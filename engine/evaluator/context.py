"""What evaluation of rules may read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from engine.dsl import tree
from engine.dsl.rule import Layer
from engine.evaluator.bounds import MOST_STEPS
from engine.evaluator.closures.calls import CompiledMacro
from engine.evaluator.closures.compilation import Compiler
from engine.evaluator.closures.layer_calls import CompiledLayer
from engine.evaluator.coverage import current
from engine.evaluator.failures import Failed
from engine.evaluator.faults import Faults
from engine.evaluator.plan import TiledSubgraph
from engine.graph.mirror import Mirror
from engine.graph.subgraph import Subgraph
from engine.matcher.choices import Choices
from engine.sizes import Sizes


@dataclass(slots=True)
class Context:
    """What evaluation may read: the graph, its sizes, and the definitions of the rule set.

    Attributes:
        layers, macros, hosts: by name as written in rules (``trt.slice``, ``lift``, ``host.f``).
        inner: makes the tiled graph that rules run from a graph that an op takes, given per input the node of the
            constant that it always is, or None; absent where nothing can be run.
        faults: what rules do wrong is told here.
        steps: how many expressions may still be evaluated for the rule that is tried.
        choices: between right ways, where those were measured.
        compiler: gives what is evaluated.
    """

    mirror: Mirror
    layers: Mapping[str, Layer]
    macros: Mapping[str, tree.Macro]
    hosts: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    inner: Callable[[Subgraph, tuple[fx.Node | None, ...]], TiledSubgraph] | None = None
    faults: Faults = field(default_factory=Faults)
    steps: int = MOST_STEPS
    choices: Choices | None = None
    compiler: Compiler = field(default_factory=current)
    _macros: dict[str, CompiledMacro] = field(default_factory=dict)
    _layers: dict[str, CompiledLayer | None] = field(default_factory=dict)

    @property
    def sizes(self) -> Sizes:
        """Answers about symbolic ints."""
        return self.mirror.sizes

    def spend(self, steps: int) -> None:
        """Count expressions that are about to be evaluated again: those in a macro, or in a comprehension.

        Raises:
            Failed: they are more than a rule may take.
        """
        self.steps -= steps
        if self.steps < 0:
            raise Failed(f"takes more than {MOST_STEPS} steps to evaluate")

    def macro(self, name: str) -> CompiledMacro:
        """A macro by name, ready to be called."""
        found = self._macros.get(name)
        if found is None:
            found = self._macros[name] = self.compiler.macro(self.macros[name])
        return found

    def layer(self, name: str) -> CompiledLayer | None:
        """A layer by name, ready to be called; None for what is no layer."""
        try:
            return self._layers[name]
        except KeyError:
            layer = self.layers.get(name)
            found = self._layers[name] = None if layer is None else self.compiler.layer(layer)
            return found


__all__ = ["Context"]
