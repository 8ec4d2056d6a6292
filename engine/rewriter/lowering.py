"""Lowering of a whole graph: rules first, then PyTorch's decompositions for what no rule takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import fx
from torch._ops import HigherOrderOperator

from engine.dsl.rule import Rule
from engine.evaluator import Context
from engine.graph.mirror import Mirror
from engine.rewriter.change import counts
from engine.rewriter.decomposition import NAME, Undecomposable, expand
from engine.rewriter.rewriter import Rewriter, RewriteStats
from engine.rewriter.trace import Application, Trace


def lower_all(
    mirror: Mirror,
    rules: Sequence[Rule],
    convertible: Callable[[fx.Node], bool],
    context: Context,
    *,
    trace: Trace | None = None,
    check: bool | None = None,
) -> RewriteStats:
    """Rewrite until no rule applies and every op left is convertible or cannot be taken apart.

    Nodes that ``convertible`` refuses are expanded in graph order by PyTorch's core ATen table, all of them once,
    and the new nodes go through the rules before anything is expanded again: composites that rules understand
    stay whole.  An op stays if PyTorch has no decomposition of it, or one that leads back to it.

    Args:
        rules: ``simplify`` and ``lower`` rules in precedence order.
        convertible: whether a ``convert`` rule takes a node, as a root or inside a larger match.

    Raises:
        EngineError: as :meth:`engine.rewriter.rewriter.Rewriter.run`.
    """
    rewriter = Rewriter(mirror, rules, context, trace=trace, check=check)
    rewriter.run()
    stuck: dict[fx.Node, str] = {}
    while _expand_all(rewriter, mirror, convertible, stuck):
        rewriter.run()
    for node, reason in stuck.items():
        if not node._erased:
            node.meta["undecomposed"] = reason
    return rewriter.stats


def _expand_all(
    rewriter: Rewriter,
    mirror: Mirror,
    convertible: Callable[[fx.Node], bool],
    stuck: dict[fx.Node, str],
) -> bool:
    """Expand every node that is neither convertible nor known to be stuck; whether there was any."""
    expanded = False
    for node in list(mirror.graph.nodes):
        if node._erased or node in stuck or not counts(mirror, node):
            continue
        # Graphs inside an op are looked at once the graph around them is as it stays: when it is tiled.
        if not isinstance(node.target, HigherOrderOperator) and convertible(node):
            continue
        name = node.name
        try:
            change = expand(mirror, node)
        except Undecomposable as reason:
            stuck[node] = str(reason)
            continue
        new = tuple(item.name for item in change.new)
        rewriter.decomposed(change, Application(NAME, "torch._decomp", "decompose", (name,), (name,), new))
        expanded = True
    return expanded
