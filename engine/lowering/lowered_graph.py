"""A graph on its way to engines: rewritten to what ``convert`` rules take, folded and tiled.

The graph of a model and the graphs inside its ops (``cond``, ``while_loop``, ``scan``) go the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import fx

from engine.capture.substitution import ADVICE
from engine.dsl.ruleset import RuleSet
from engine.evaluator import Context, apply
from engine.evaluator.plan import Plan
from engine.graph.mirror import Mirror, Value
from engine.matcher.matcher import Count, Matcher
from engine.partitioner import Rejections, Tile, Tiling, tile
from engine.partitioner.attempts import KINDS, Attempts
from engine.rewriter import Trace, fold_constants, lower_all
from engine.settings import CompilationSettings


class LoweredGraph:
    """A mirrored graph, its rules, and its tiles.

    Attributes:
        mirror: the graph.
        context: what rules may look at.
        tiling: its tiles, and why nodes have none; empty before :meth:`tile`.
        attempts: how far each rule gets at a node.
    """

    def __init__(self, mirror: Mirror, context: Context, ruleset: RuleSet, settings: CompilationSettings) -> None:
        self.mirror = mirror
        self.context = context
        self.tiling = Tiling()
        self._ruleset = ruleset
        self._settings = settings
        matchers = {kind: Matcher(ruleset.phase(kind), mirror, context.choices) for kind in KINDS}
        self._matcher = matchers["convert"]
        self._rewritten: dict[str, Count] = {}
        self.attempts = Attempts(context, matchers, ruleset.inactive)

    def convertible(self, node: fx.Node) -> bool:
        """Whether some ``convert`` rule takes the node as it is."""
        return any(apply(match.rule, match, self.context) for match in self._matcher.matches(node))

    def rewrite(self, trace: Trace) -> None:
        """Apply ``simplify`` and ``lower`` rules, and PyTorch's decompositions of what no rule converts."""
        rules = self._ruleset.phase("simplify", "lower")
        check = self._settings.debug or None
        stats = lower_all(self.mirror, rules, self.convertible, self.context, trace=trace, check=check)
        self.attempts.set_aside = stats.set_aside
        self._rewritten = stats.counts

    def counts(self) -> dict[str, Count]:
        """How often each rule was looked at, by its id."""
        return {**self._rewritten, **self._matcher.stats}

    def fold(self) -> None:
        """Compute the constants that values at run time read."""
        fold_constants(self.mirror, convertible=self.convertible, dequantized=self._dequantized)

    def _dequantized(self, node: fx.Node) -> tuple[Value, ...] | None:
        """What the rule that takes a node reads, if it dequantizes; None if it does not."""
        # Other rules are not tried: what they read of a constant could not be replaced by a refit.
        for match in self._matcher.matches(node):
            plan = apply(match.rule, match, self.context) if match.rule.dequantizes else None
            if isinstance(plan, Plan):
                found = Tile(node, match.rule, plan, match.nodes)
                return tuple(found.operands()) if found.dequantizes else None
        return None

    def tile(self, rejections: Rejections) -> None:
        """Choose a tile for each node that is needed, without what was rejected."""
        self.tiling = tile(
            self.attempts,
            excluded=self._excluded(),
            rejections=rejections,
            dtype_advice=ADVICE,
        )

    def _excluded(self) -> Callable[[fx.Node], str | None]:
        """Why a node must run in PyTorch though a rule may take it."""
        choices = self.context.choices
        if choices is not None and choices.in_pytorch:
            return lambda node: "the whole model was measured to be faster in PyTorch (tune)"
        return self._settings.exclusion(self.mirror)

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """The tiles in graph order."""
        return tuple(self.tiling.tiles[node] for node in sorted(self.tiling.tiles))

    @property
    def reasons(self) -> Mapping[fx.Node, str]:
        """Why nodes have no tile, in graph order."""
        return dict(sorted(self.tiling.reasons.items()))

    def has_alternative(self, chosen: Tile, rejections: Rejections) -> bool:
        """Whether another rule that was not rejected takes the node of a tile."""
        return any(
            match.rule.id != chosen.rule.id
            and (chosen.node.name, match.rule.id) not in rejections
            and apply(match.rule, match, self.context)
            for match in self._matcher.matches(chosen.node)
        )


__all__ = ["LoweredGraph"]
