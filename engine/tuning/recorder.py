"""Where rules were used in a compilation: the places at which there is something to choose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import fx
from torch._ops import OpOverload

from engine.graph.mirror import Mirror
from engine.matcher.choices import Choices, Site
from engine.matcher.match import Match
from engine.matcher.structure import described, structure
from engine.pipeline.compilation import Compilation
from engine.rewriter.decomposition import has_decomposition


class Seen(NamedTuple):
    """A match as it was when the matcher found it.

    Attributes:
        nodes: names of the matched nodes.
        computes: whether one of them does more than to look at a tensor in another shape.
    """

    site: Site
    what: str
    nodes: tuple[str, ...]
    computes: bool


class Use(NamedTuple):
    """A place at which a rule was used, or could have been if it were not optional.

    Attributes:
        nodes: names of the nodes of the captured graph that it goes back to.
        optional: the rule was not used, because it is only used where that was measured to be faster.
    """

    site: Site
    what: str
    nodes: frozenset[str]
    optional: bool


class Recorder(Choices):
    """Choices that write down every match that is found."""

    def __init__(self, left_out: Iterable[Site] = (), used: Iterable[Site] = ()) -> None:
        super().__init__(left_out, used)
        self._seen: dict[tuple[str, str], Seen] = {}

    def with_optional(self, optional: Iterable[str]) -> Recorder:
        """The same object, whose optional rules are these."""
        self.optional = frozenset(optional)
        return self

    def passes_over(self, match: Match, mirror: Mirror) -> bool:
        """See :class:`Choices`."""
        if not mirror.name:  # nodes of a graph inside an op are no nodes of the captured graph
            site = Site(match.rule.id, structure(match, mirror))
            computes = any(map(_computes, match.nodes))
            seen = Seen(site, described(match, mirror), tuple(node.name for node in match.nodes), computes)
            for root in match.roots:
                self._seen[site.rule, root.name] = seen
        return super().passes_over(match, mirror)

    def uses(self, compilation: Compilation) -> list[Use]:
        """Where rules were used in a compilation that was made with these choices and placed, in order.

        Rules that change nothing but how a tensor is looked at are left out, and so is a ``convert`` rule of one op
        that no other rule takes and that PyTorch does not take apart.
        """
        origins = _Origins(compilation)
        found: list[Use] = []

        def add(seen: Seen | None, *, optional: bool = False) -> None:
            if seen is not None and seen.computes:
                nodes = origins.of(seen.nodes)
                if nodes:
                    found.append(Use(seen.site, seen.what, nodes, optional))

        for application in compilation.subgraphs.trace.applications:
            add(self._seen.get((application.rule, application.roots[0])))
        graph = compilation.graph
        for tile in graph.tiles:
            if len(tile.nodes) > 1 or _has_parts(tile.node) or graph.has_alternative(tile, {}):
                add(self._seen.get((tile.rule.id, tile.node.name)))
        for (rule, _), seen in self._seen.items():
            if rule in self.optional and seen.site not in self.used:
                add(seen, optional=True)
        return found


class _Origins:
    """The nodes of the captured graph that a node goes back to, by names."""

    def __init__(self, compilation: Compilation) -> None:
        self._of: dict[str, frozenset[str]] = {}
        for application in compilation.subgraphs.trace.applications:
            came_from = self.of(application.matched)
            for name in application.new:
                self._of[name] = came_from

    def of(self, names: Iterable[str]) -> frozenset[str]:
        return frozenset().union(*(self._of.get(name, frozenset((name,))) for name in names))


def _computes(node: fx.Node) -> bool:
    return not (isinstance(node.target, OpOverload) and node.target.is_view)


def _has_parts(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and has_decomposition(node.target)


def by_site(uses: Iterable[Use]) -> Iterator[list[Use]]:
    """Uses of one site together, each place once, in order."""
    found: dict[Site, dict[frozenset[str], Use]] = {}
    for use in uses:
        found.setdefault(use.site, {}).setdefault(use.nodes, use)
    return (list(places.values()) for places in found.values())


__all__ = ["Recorder", "Use", "by_site"]
