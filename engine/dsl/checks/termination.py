"""``lower`` terminates: the ops that rules emit lie below the ops they rewrite, or a measure decreases.

Let ``a > b`` if some ``lower`` rule rewrites root ``a`` and emits ``b``.  Where ``>`` is acyclic, the multiset of
ops of a graph decreases with every step (Dershowitz and Manna, 1979).  A rule inside a cycle of ``>`` needs a
``decreases`` clause, which is checked at run time.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING

from engine.dsl.diagnostics import Problems
from engine.dsl.rule import Rule
from engine.errors import Span

if TYPE_CHECKING:
    import networkx


def check(
    given: Iterable[Rule],
    rules: Iterable[Rule],
    emitted: Mapping[tuple[str, str], Mapping[str, Span]],
    problems: Problems,
) -> None:
    """Report ``lower`` rules that lead back to their own root and have no ``decreases``.

    Args:
        given: rules that are known to end without the others.
        emitted: by kind and id of a rule, the ops that a rule emits and where.
    """
    by_edge: dict[tuple[str, str], list[Rule]] = defaultdict(list)
    after: dict[str, set[str]] = defaultdict(set)
    added: set[tuple[str, str]] = set()
    for new, some in ((False, given), (True, rules)):
        for rule in some:
            if rule.kind != "lower":
                continue
            for root in rule.root_ops:
                for op in emitted[rule.kind, rule.id]:
                    by_edge[root, op].append(rule)
                    after[root].add(op)
                    if new:
                        added.add((root, op))
    # Few rules were added, as a rule: whether one closes a circle is seen before a library for graphs is loaded.
    if not any(_leads_to(op, root, after) for root, op in added):
        return
    import networkx

    graph = networkx.DiGraph(by_edge.keys())
    component: dict[str, int] = {}
    for number, members in enumerate(networkx.strongly_connected_components(graph)):
        component.update(dict.fromkeys(members, number))
    for (root, op), emitters in sorted(by_edge.items()):
        if component[root] != component[op]:
            continue
        for rule in emitters:
            if rule.decreases is None:
                cycle = _cycle(graph, root, op, component)
                names = dict.fromkeys(
                    f"`{by_edge[edge][0].id}`" for edge in itertools.pairwise(cycle) if edge in by_edge
                )
                problems.report(
                    f"lowering might never end: {' > '.join(cycle)}, by {', '.join(names)}",
                    emitted[rule.kind, rule.id][op],
                    f"emit ops further down, or add `decreases` with a measure that is smaller for the new {op}",
                    (rule.span, f"`{rule.id}` has no `decreases`"),
                )


def _leads_to(start: str, end: str, after: Mapping[str, Set[str]]) -> bool:
    """Whether rewriting an op may lead to another one."""
    seen = {start}
    waiting = [start]
    while waiting and end not in seen:
        new = after.get(waiting.pop(), set()) - seen
        seen |= new
        waiting += new
    return end in seen


def _cycle(graph: networkx.DiGraph, root: str, op: str, component: Mapping[str, int]) -> list[str]:
    """A shortest way from ``root`` through ``op`` back to ``root``."""
    import networkx

    inside = graph.subgraph(node for node, number in component.items() if number == component[root])
    return [root, *networkx.shortest_path(inside, op, root)]
