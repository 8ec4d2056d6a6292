"""Graphs inside ops, on their way into a network: imported, rewritten, folded and tiled like the graph around them.

An inner graph is made when a rule first runs it, because only the rule says which operand each of its inputs is.  An
input that is always the same constant of the model becomes that constant inside.  The tiles of an inner graph decide
whether the op that runs it is covered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from engine.capture.importer import import_subgraph
from engine.capture.substitution import ADVICE, substitute_inside, substitutes
from engine.dsl.ruleset import RuleSet
from engine.evaluator import Context, Faults, apply
from engine.graph.arguments import staged
from engine.graph.mirror import Mirror
from engine.graph.names import unique
from engine.graph.subgraph import Subgraph
from engine.matcher.matcher import Matcher
from engine.partitioner import Tile, Tiling, tile
from engine.rewriter import Trace, fold_constants, lower_all
from engine.settings import CompilationSettings


@dataclass(eq=False)
class InnerGraph:
    """A graph that an op runs, ready to be replayed into a network.

    Attributes:
        name: what the names of its nodes begin with.
        mirror: the graph; its constants are those of the graph around it.
        inputs: placeholders for the operands that are not constants of the model, in order.
        tiling: its tiles, and the nodes that have none.
    """

    name: str
    mirror: Mirror
    context: Context
    matcher: Matcher
    inputs: tuple[fx.Node, ...]
    tiling: Tiling | None = None

    @property
    def outputs(self) -> tuple[Any, ...]:
        """What the graph gives: values, and staged ints or truths for sizes."""
        results = self.mirror.graph.output_node().args[0]
        return tuple(map(self._output, results))  # type: ignore[arg-type]

    def _output(self, result: Any) -> Any:
        if not isinstance(result, fx.Node):
            return result
        return staged(result.meta["val"]) if self.mirror.is_size(result) else self.mirror.value(result)

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """The tiles in graph order."""
        assert self.tiling is not None
        return tuple(self.tiling.tiles[node] for node in sorted(self.tiling.tiles))

    @property
    def reasons(self) -> Mapping[fx.Node, str]:
        """Why nodes have no tile, in graph order."""
        assert self.tiling is not None
        return dict(sorted(self.tiling.reasons.items()))


@dataclass
class InnerGraphs:
    """The inner graphs of one compilation.

    Attributes:
        settings: of the compilation.
        refusals: pairs of node and rule that TensorRT refused, inside as outside.
        faults: what rules do wrong is told here, inside as outside.
    """

    ruleset: RuleSet
    settings: CompilationSettings
    refusals: Mapping[tuple[str, str], str] = field(default_factory=dict)
    trace: Trace = field(default_factory=Trace)
    faults: Faults = field(default_factory=Faults)
    _made: dict[Any, InnerGraph] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def __iter__(self) -> Iterator[InnerGraph]:
        """Those made so far, in order."""
        return iter(self._made.values())

    def context(self, mirror: Mirror) -> Context:
        """The context in which rules run the graphs that ops of ``mirror`` take."""
        rules = self.ruleset

        def inner(subgraph: Subgraph, known: tuple[fx.Node | None, ...]) -> InnerGraph:
            return self._inner(subgraph, known, mirror)

        return Context(mirror, rules.layers, rules.macros, rules.hosts, inner, self.faults)

    def retile(self) -> None:
        """Forget all tiles: what was refused has changed."""
        for graph in self._made.values():
            graph.tiling = None

    def _inner(self, subgraph: Subgraph, known: Sequence[fx.Node | None], around: Mirror) -> InnerGraph:
        key = (subgraph, tuple(None if node is None else str(node.target) for node in known))
        found = self._made.get(key)
        if found is None:
            found = self._make(subgraph, known, around)
            self._made[key] = found
        if found.tiling is None:
            found.tiling = self._tiled(found)
        return found

    def _make(self, subgraph: Subgraph, known: Sequence[fx.Node | None], around: Mirror) -> InnerGraph:
        """Import a graph and bring it down to what the ``convert`` rules understand."""
        name = unique(subgraph.name.replace(".", "_"), self._names)
        imported = import_subgraph(subgraph, name, known, around.constants)
        if dtypes := substitutes(self.settings):
            substitute_inside(imported.graph, imported.constants, around.fake_mode, dtypes)
        inputs = tuple(entry for entry in imported.inputs if isinstance(entry, fx.Node))
        mirror = Mirror(
            imported.graph, around.constants, around.fake_mode, around.shape_env, name=name, sizes=around.sizes
        )
        mirror.hoist_sizes()
        context = self.context(mirror)
        matcher = Matcher(self.ruleset.phase("convert"), mirror)
        convertible = _convertible(matcher, context)
        rules = self.ruleset.phase("simplify", "lower")
        lower_all(mirror, rules, convertible, context, trace=self.trace, check=self.settings.debug or None)
        fold_constants(mirror, convertible=convertible)
        around.inner[name] = mirror
        return InnerGraph(name, mirror, context, matcher, inputs)

    def _tiled(self, graph: InnerGraph) -> Tiling:
        return tile(
            graph.matcher,
            graph.context,
            excluded=self.settings.exclusion(graph.mirror),
            refusals=self.refusals,
            dtype_advice=ADVICE,
            inactive=self.ruleset.inactive,
        )


def _convertible(matcher: Matcher, context: Context) -> Callable[[fx.Node], bool]:
    def convertible(node: fx.Node) -> bool:
        return any(apply(match.rule, match, context) for match in matcher.matches(node))

    return convertible


__all__ = ["InnerGraph", "InnerGraphs"]
