"""Subgraphs that ops run, on their way into a network: imported, then lowered and tiled like the graph around them.

A subgraph is made when a rule first runs it, because only the rule says which operand each of its inputs is.  An
input that is always the same constant of the model becomes that constant inside.  The tiles of a subgraph decide
whether the op that runs it is covered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from engine.capture.importer import import_subgraph
from engine.capture.substitution import substitute_inside, substitutes
from engine.dsl.ruleset import RuleSet
from engine.evaluator import Context, Faults
from engine.graph.arguments import symint
from engine.graph.mirror import Mirror
from engine.graph.names import unique
from engine.graph.subgraph import Subgraph
from engine.lowering.lowered_graph import LoweredGraph
from engine.matcher.choices import Choices
from engine.partitioner import Rejections
from engine.rewriter import Trace
from engine.settings import CompilationSettings
from engine.weights.frozen_constants import frozen_constant


class LoweredSubgraph(LoweredGraph):
    """A graph that an op runs, ready to be replayed into a network; its constants are those of the graph around it.

    Attributes:
        name: what the names of its nodes begin with.
        inputs: placeholders for the operands that are not constants of the model, in order.
        tiled: whether its tiles are those that the rejections so far leave.
    """

    def __init__(
        self,
        name: str,
        inputs: tuple[fx.Node, ...],
        mirror: Mirror,
        context: Context,
        ruleset: RuleSet,
        settings: CompilationSettings,
    ) -> None:
        super().__init__(mirror, context, ruleset, settings)
        self.name = name
        self.inputs = inputs
        self.tiled = False

    @property
    def outputs(self) -> tuple[Any, ...]:
        """What the graph returns: values, and symbolic ints or truths for sizes."""
        results = self.mirror.graph.output_node().args[0]
        return tuple(map(self._output, results))  # type: ignore[arg-type]

    def _output(self, result: Any) -> Any:
        if not isinstance(result, fx.Node):
            return result
        return symint(result.meta["val"]) if self.mirror.is_size(result) else self.mirror.value(result)


@dataclass
class Subgraphs:
    """The subgraphs of one compilation.

    Attributes:
        settings: of the compilation.
        rejections: pairs of node and rule that TensorRT rejected, inside as outside.
        faults: what rules do wrong is told here, inside as outside.
        choices: between right ways, inside as outside.
    """

    ruleset: RuleSet
    settings: CompilationSettings
    rejections: Rejections = field(default_factory=dict)
    trace: Trace = field(default_factory=Trace)
    faults: Faults = field(default_factory=Faults)
    choices: Choices | None = None
    _made: dict[Any, LoweredSubgraph] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def __iter__(self) -> Iterator[LoweredSubgraph]:
        """Those made so far, in order."""
        return iter(self._made.values())

    def context(self, mirror: Mirror) -> Context:
        """The context in which rules run the graphs that ops of ``mirror`` take."""
        rules = self.ruleset

        def inner(subgraph: Subgraph, known: tuple[fx.Node | None, ...]) -> LoweredSubgraph:
            return self._tiled(subgraph, known, mirror)

        return Context(mirror, rules.layers, rules.macros, rules.hosts, inner, self.faults, choices=self.choices)

    def retile(self) -> None:
        """Forget all tiles: what was rejected has changed."""
        for graph in self._made.values():
            graph.tiled = False

    def _tiled(self, subgraph: Subgraph, known: Sequence[fx.Node | None], around: Mirror) -> LoweredSubgraph:
        key = (subgraph, tuple(None if node is None else str(node.target) for node in known))
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = self._make(subgraph, known, around)
        if not found.tiled:
            found.tile(self.rejections)
            found.tiled = True
        return found

    def _make(self, subgraph: Subgraph, known: Sequence[fx.Node | None], around: Mirror) -> LoweredSubgraph:
        """Import a graph and bring it down to what the ``convert`` rules understand."""
        name = unique(subgraph.name.replace(".", "_"), self._names)
        imported = import_subgraph(subgraph, name, known, around.constants)
        if dtypes := substitutes(self.settings):
            substitute_inside(imported.graph, imported.constants, around.fake_mode, dtypes)
        inputs = tuple(entry for entry in imported.inputs if isinstance(entry, fx.Node))
        mirror = Mirror(
            imported.graph,
            around.constants,
            around.fake_mode,
            around.shape_env,
            name=name,
            sizes=around.sizes,
            on_read=frozen_constant,
        )
        mirror.hoist_sizes()
        made = LoweredSubgraph(name, inputs, mirror, self.context(mirror), self.ruleset, self.settings)
        made.rewrite(self.trace)
        made.fold()
        around.inner[name] = mirror
        return made


__all__ = ["LoweredSubgraph", "Subgraphs"]
