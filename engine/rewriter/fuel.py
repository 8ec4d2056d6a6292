"""Termination of ``lower`` rules: an op order, and the number of steps it allows.

Let ``a > b`` if some rule rewrites a root ``a`` and emits ``b``.  Where ``>`` is acyclic, every rewrite replaces
an op by finitely many smaller ones, which cannot go on forever (Dershowitz and Manna, *Proving termination with
multiset orderings*, 1979).  With ``phi(op) = 1 + max over its rules of the sum of phi over the emitted ops``, the
sum of ``phi`` over the graph bounds the number of steps.  Inside a cycle of ``>`` a rule carries a ``decreases``
measure, which the rewriter checks at every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import networkx

from engine.dsl import tree
from engine.dsl.checks.facts import facts_of
from engine.dsl.memo import Recent
from engine.dsl.rule import Rule


class OpOrder:
    """The order ``>`` of the ops that ``lower`` rules rewrite, and ``phi`` over it.

    Attributes:
        endless: rules that emit an op of their own cycle and have no ``decreases``, each with what to say of it.
    """

    def __init__(self, rules: Sequence[Rule], macros: Mapping[str, tree.Macro]) -> None:
        rules = [rule for rule in rules if rule.kind == "lower"]
        facts = {rule.id: facts_of(rule, macros) for rule in rules}
        graph = networkx.DiGraph()
        for rule in rules:
            for root in rule.roots:
                graph.add_node(root.op)
                graph.add_edges_from((root.op, op) for op in facts[rule.id].emits)
        self.endless: dict[str, str] = {}
        self._component: dict[str, int] = {}
        self._phi: dict[str, int] = {}
        self._cost: dict[str, int] = {}
        by_root: dict[str, list[Rule]] = {}
        for rule in rules:
            for op in dict.fromkeys(root.op for root in rule.roots):
                by_root.setdefault(op, []).append(rule)
        condensed = networkx.condensation(graph)
        # What an op is lowered to is known before the op.
        for number in reversed(list(networkx.topological_sort(condensed))):
            component = condensed.nodes[number]["members"]
            for op in component:
                self._component[op] = number
            members = [rule for op in sorted(component) for rule in by_root.get(op, ())]
            for rule in members:
                within = [op for op in facts[rule.id].emits if op in component]
                if within and not facts[rule.id].decreases:
                    self.endless[rule.id] = (
                        f"{rule.id} rewrites {rule.roots[0].op} and emits {within[0]}, which leads back "
                        "to it; add a `decreases` clause with a measure that gets smaller, or emit smaller ops"
                    )
                cost = sum(self.phi(op) for op in facts[rule.id].emits if op not in component)
                self._cost[rule.id] = max(cost, self._cost.get(rule.id, 0))
            value = 1 + max((self._cost[rule.id] for rule in members), default=0)
            self._phi.update(dict.fromkeys(component, value if members else 1))

    def phi(self, op: str) -> int:
        """Largest number of rewrites that one node of this op can lead to, itself included."""
        return self._phi.get(op, 1)

    def cost(self, rule: Rule) -> int:
        """The sum of ``phi`` over what the text of a rule emits outside its own cycle."""
        return self._cost.get(rule.id, 0)

    def cyclic(self, a: str, b: str) -> bool:
        """Whether two ops can lead to each other; an op leads to itself only through a rule."""
        return a in self._component and self._component.get(b) == self._component[a]


op_order = Recent(OpOrder)


class Fuel:
    """The number of ``lower`` rewrites still allowed."""

    def __init__(self, order: OpOrder) -> None:
        self.order = order
        self.left = 0

    def grant(self, ops: Iterable[str]) -> None:
        """Allow for nodes that did not come from a ``lower`` rule."""
        self.left += sum(map(self.order.phi, ops))

    def spend(self, rule: Rule, ops: Iterable[str]) -> bool:
        """Pay for one rewrite that emitted ``ops``; False when the fuel has run out.

        A rule that emits a list is charged what the list actually holds: the difference to its text is granted.
        """
        self.left += max(0, sum(map(self.order.phi, ops)) - self.order.cost(rule)) - 1
        return self.left >= 0
