"""Reachability and convexity, answered inside a window of the topological order."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from torch import fx

if TYPE_CHECKING:
    from engine.graph.mirror import Mirror


def reachable(source: fx.Node, target: fx.Node) -> bool:
    """Whether ``target`` depends on ``source``, directly or through other nodes; a node reaches itself."""
    if source is target:
        return True
    stack, seen = [target], {target}
    while stack:
        for node in stack.pop().all_input_nodes:
            if node is source:
                return True
            # Whatever comes before the source cannot depend on it.
            if node not in seen and source < node:
                seen.add(node)
                stack.append(node)
    return False


def dependents(sources: Iterable[fx.Node], last: fx.Node, barred: Collection[fx.Node]) -> set[fx.Node]:
    """FX nodes up to ``last`` that depend on a source, by paths that avoid ``barred`` nodes."""
    found: set[fx.Node] = set()
    stack = list(sources)
    while stack:
        for user in stack.pop().users:
            if user not in found and user not in barred and not last < user:
                found.add(user)
                stack.append(user)
    return found


def convex(mirror: Mirror, nodes: Collection[fx.Node]) -> bool:
    """Whether no path leaves ``nodes`` and comes back."""
    if len(nodes) < 2:
        return True
    inside = set(nodes)
    last = max(inside)
    seen: set[fx.Node] = set()
    users = (user for node in inside for user in mirror.node_users(node))
    stack = [user for user in users if user not in inside and user < last]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        for user in mirror.node_users(node):
            if user in inside:
                return False
            if user < last:
                stack.append(user)
    return True
