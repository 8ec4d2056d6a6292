"""Matching time per node as graphs grow: the automaton against trying every rule at every node.

``python benchmarks/matching.py [--sizes 2000 5000 10000 20000] [--rules 300]``

The graphs are random chains of elementwise ops with literals; the rules are random patterns of two to four
such ops.  Both matchers must find the same number of matches.  Time per node must not grow with the graph.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections.abc import Callable, Sequence

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.dsl import tree
from engine.dsl.expansion import ops_in
from engine.dsl.rule import ArgumentPattern, Bind, Equals, OpMatch, Rule
from engine.errors import Span
from engine.graph.mirror import Mirror, Value
from engine.matcher.automaton import Automaton
from engine.matcher.matcher import Matcher

SPAN = Span("benchmark.rules", 1, 1, 1, 2)
UNARY = [f"aten.{name}.default" for name in ("relu", "tanh", "sigmoid", "exp", "neg", "sin", "cos", "abs", "sqrt")]
BINARY = ["aten.add.Tensor", "aten.mul.Tensor", "aten.sub.Tensor", "aten.div.Tensor"]
LITERALS = (0.5, 1, 2, 3.0)
WITH_ALPHA = ("aten.add.Tensor", "aten.sub.Tensor")


def overload(name: str) -> torch._ops.OpOverload:
    _, packet, kind = name.split(".")
    found: torch._ops.OpOverload = getattr(getattr(torch.ops.aten, packet), kind)
    return found


def graph_of(size: int, seed: int = 0) -> Mirror:
    """A random graph with ``size`` call nodes."""
    draw = random.Random(seed)
    mode = FakeTensorMode()
    with mode:
        fake = torch.empty(4, 8)
    graph = fx.Graph()
    recent = [graph.placeholder("x")]
    recent[0].meta["val"] = fake
    for _ in range(size):
        operand = draw.choice(recent[-3:])
        if draw.random() < 0.5:
            node = graph.call_function(overload(draw.choice(UNARY)), (operand,))
        else:
            name = draw.choice(BINARY)
            other = draw.choice(recent[-6:]) if draw.random() < 0.5 else draw.choice(LITERALS)
            keywords = {"alpha": 1} if name in WITH_ALPHA else {}
            node = graph.call_function(overload(name), (operand, other), keywords)
        node.meta["val"] = fake
        recent = [*recent[-8:], node]
    graph.output((recent[-1],))
    return Mirror(graph, {}, mode, None)


def rules_of(count: int, seed: int = 1) -> list[Rule]:
    """Random rules of two to four ops."""
    draw = random.Random(seed)
    names = iter(f"v{number}" for number in range(1_000_000))

    def capture() -> ArgumentPattern:
        type_ = tree.Type(SPAN, ("floating",)) if draw.random() < 0.5 else None
        return Bind(next(names), type_, SPAN)

    def build(ops: int) -> OpMatch:
        inner: ArgumentPattern = build(ops - 1) if ops > 1 else capture()
        if draw.random() < 0.5:
            return OpMatch(draw.choice(UNARY), ((0, inner),), None, 0, None, True, False, False, SPAN)
        name = draw.choice(BINARY)
        other = Equals(draw.choice(LITERALS), False, SPAN) if draw.random() < 0.5 else capture()
        arguments: tuple[tuple[int, ArgumentPattern], ...] = ((0, inner), (1, other))
        if name in WITH_ALPHA:
            arguments += ((2, Equals(1, False, SPAN)),)
        shared, unordered = draw.random() < 0.5, draw.random() < 0.2
        return OpMatch(name, arguments, None, 0, None, shared, False, unordered, SPAN)

    rules: list[Rule] = []
    for number in range(count):
        root = build(draw.choice((2, 2, 3, 4)))
        emit = tree.Name(SPAN, "x")
        rules.append(
            Rule(
                f"b.r{number}",
                "simplify",
                0,
                "",
                (root,),
                (),
                emit,
                (),
                (),
                None,
                (),
                (),
                {},
                SPAN,
                (),
                number,
            )
        )
    return rules


def naive(mirror: Mirror, rules: Sequence[Rule]) -> int:
    """Every rule at every node, by recursion on the pattern; the number of matches."""

    def fits(pattern: ArgumentPattern, value: object, inside: list[fx.Node]) -> list[list[fx.Node]]:
        """The ways a pattern fits, each as the matched nodes."""
        if isinstance(pattern, Bind):
            tensor = isinstance(value, Value) and mirror.fake(value).dtype.is_floating_point
            return [inside] if pattern.type is None or tensor else []
        if isinstance(pattern, Equals):
            return [inside] if not isinstance(value, Value) and value == pattern.value else []
        assert isinstance(pattern, OpMatch)
        if not isinstance(value, Value) or mirror.op(value.node) != pattern.op:
            return []
        arguments = mirror.arguments(value.node)
        orders = [pattern.arguments]
        if pattern.unordered:
            (_, first), (_, second), *others = pattern.arguments
            orders.append(((0, second), (1, first), *others))
        found = []
        for order in orders:
            ways = [[*inside, value.node]]
            for position, argument in order:
                ways = [more for way in ways for more in fits(argument, arguments[position], way)]
            found += ways
        return found

    def exclusive(pattern: OpMatch, nodes: list[fx.Node]) -> bool:
        # The patterns are chains, so the ops and the matched nodes come in the same order.
        return all(
            op.shared or all(user in nodes for user in node.users)
            for op, node in list(zip(ops_in(pattern), nodes, strict=True))[1:]
        )

    count = 0
    for node in mirror.graph.nodes:
        for rule in rules:
            for nodes in fits(rule.roots[0], Value(node, 0), []):
                count += exclusive(rule.roots[0], nodes)
    return count


def compiled(mirror: Mirror, rules: Sequence[Rule]) -> int:
    """The same count by the automaton."""
    matcher = Matcher(rules, mirror)
    return sum(sum(1 for _ in matcher.matches(node)) for node in mirror.graph.nodes)


def seconds(run: Callable[[Mirror], int], size: int, repeats: int) -> tuple[float, int]:
    """The best time of a few runs, each on a fresh graph, and the count."""
    times, count = [], 0
    for _ in range(repeats):
        mirror = graph_of(size)
        gc.collect()
        gc.disable()
        start = time.perf_counter()
        count = run(mirror)
        times.append(time.perf_counter() - start)
        gc.enable()
    return min(times), count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 5000, 10_000, 20_000])
    parser.add_argument("--rules", type=int, default=300)
    options = parser.parse_args()
    rules = rules_of(options.rules)
    start = time.perf_counter()
    automaton = Automaton(rules)
    programs = sum(len(trie.programs) for trie in map(automaton.trie, automaton.by_op) if trie is not None)
    print(f"{len(rules)} rules, {programs} patterns compiled in {1e3 * (time.perf_counter() - start):.0f} ms")
    compiled(graph_of(200), rules)  # compiles the automaton that the runs below share
    print(f"{'nodes':>7} {'matches':>8} {'automaton':>14} {'growth':>5} {'naive':>14} {'growth':>5}")
    first: tuple[float, float] | None = None
    for size in options.sizes:
        fast, found = seconds(lambda mirror: compiled(mirror, rules), size, 3)
        slow, expected = seconds(lambda mirror: naive(mirror, rules), size, 1)
        if found != expected:
            raise SystemExit(f"the matchers disagree at {size} nodes: {found} and {expected} matches")
        fast, slow = 1e6 * fast / size, 1e6 * slow / size
        first = first or (fast, slow)
        row = f"{size:>7} {found:>8} {fast:>6.1f} us/node {fast / first[0]:>5.2f}"
        print(f"{row} {slow:>6.0f} us/node {slow / first[1]:>5.2f}")


if __name__ == "__main__":
    main()
