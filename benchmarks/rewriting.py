"""Rewriting takes time proportional to the size of the graph.

Graphs of several sizes with the same mixture of ops are rewritten by the same rules in one process.  The time per
node of the largest over that of the smallest says how far from linear it is; 1.0 is linear.

    python -m benchmarks.rewriting [--sizes 2000 5000 10000 20000] [--repeat 3]
"""

from __future__ import annotations

import argparse
import gc
import operator
from time import process_time

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.dsl import tree
from engine.dsl.checks.patterns.pattern_resolver import PatternResolver
from engine.dsl.diagnostics import Problems
from engine.dsl.rule import Rule
from engine.dsl.syntax.parser import parse
from engine.evaluator import Context
from engine.graph.mirror import Mirror
from engine.rewriter import Trace, fold_constants, rewrite

RULES = """
simplify silu "A fusion whose operand may have other users at first."
  match aten.mul.Tensor{x, aten.sigmoid(x)}
  emit  aten.silu(x)

simplify views
  match aten.view(aten.view(x, ..), size)
  emit  aten.view(x, size)

simplify identity
  match aten.alias(x)
  emit  x

lower square
  match aten.square(x)
  emit  aten.pow.Tensor_Scalar(x, 2)

lower pow_two
  match aten.pow.Tensor_Scalar(x, 2)
  emit  aten.mul.Tensor(x, x)

lower addcmul
  match aten.addcmul(x, a, b, value=v)
  emit  aten.add.Tensor(x, aten.mul.Tensor(aten.mul.Tensor(a, b), v))

lower zeros
  match aten.zeros_like(x: tensor, ..)
  emit  aten.mul.Scalar(x, 0.0)
"""


def rules() -> tuple[Rule, ...]:
    """The rules, ranked in the order written."""
    problems = Problems({"benchmark.rules": RULES})
    made = [_rule(item, rank, problems) for rank, item in enumerate(parse(RULES, "benchmark.rules").rules)]
    problems.raise_if_any()
    return tuple(made)


def _rule(item: tree.RuleItem, rank: int, problems: Problems) -> Rule:
    return Rule(
        id=f"benchmark.{item.name}",
        kind=item.kind,
        level=0,
        doc=item.doc,
        roots=PatternResolver({}, problems).roots(item.match),
        steps=item.steps,
        emit=item.emit,
        needs=(),
        over=(),
        decreases=None,
        relax=(),
        tests=(),
        family={},
        span=item.span,
        rank=rank,
    )


def build(size: int) -> Mirror:
    """A graph of about ``size`` nodes: repeated blocks, with an input and a weight that every block reads."""
    aten = torch.ops.aten
    graph = fx.Graph()
    mode = FakeTensorMode()
    with mode:
        fake = torch.empty(4, 8)

    def add(op: object, *args: object) -> fx.Node:
        node = graph.call_function(op, args)  # type: ignore[arg-type]
        with mode:
            node.meta["val"] = op(*(item.meta["val"] if isinstance(item, fx.Node) else item for item in args))  # type: ignore[operator]
        return node

    source = graph.placeholder("x")
    source.meta["val"] = fake
    weight = graph.create_node("get_attr", "weight")
    weight.meta["val"] = fake
    current, results, count = source, [], 2
    while count < size:
        squared = add(aten.square.default, current)
        mixed = add(aten.addcmul.default, squared, current, weight)
        gate = add(aten.sigmoid.default, mixed)
        gated = add(aten.mul.Tensor, mixed, gate)
        other = add(aten.zeros_like.default, add(aten.tanh.default, mixed))
        flat = add(aten.view.default, add(aten.view.default, gated, [32]), [8, 4])
        back = add(aten.alias.default, add(aten.view.default, flat, [4, 8]))
        hub = add(aten.add.Tensor, add(aten.alias.default, source), other)
        current = add(aten.add.Tensor, back, add(aten.exp.default, weight))
        results.append(hub)
        count += 14
    output = graph.output((current, *results))
    output.meta["val"] = tuple(node.meta["val"] for node in (current, *results))
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            _fill(node)
    return Mirror(graph, {"weight": torch.ones(4, 8)}, mode, None)


def _fill(node: fx.Node) -> None:
    from engine.graph.canonical import canonical_arguments

    assert isinstance(node.target, torch._ops.OpOverload)
    node.args, node.kwargs = canonical_arguments(node.target, node.args, node.kwargs)


def measure(size: int, active: tuple[Rule, ...]) -> tuple[int, int, float, float]:
    """Nodes, applications, and seconds to rewrite and to fold one fresh graph."""
    mirror = build(size)
    nodes = len(mirror.graph.nodes)
    context = Context(mirror, {}, {})
    gc.collect()
    gc.disable()
    try:
        started = process_time()
        stats = rewrite(mirror, active, context, trace=Trace(), check=False)
        rewritten = process_time()
        fold_constants(mirror)
        folded = process_time()
    finally:
        gc.enable()
    return nodes, stats.applications, rewritten - started, folded - rewritten


def main() -> None:
    """Print a table: time per node by size, and the ratio to the smallest."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000, 5_000, 10_000, 20_000])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    active = rules()
    measure(min(options.sizes), active)  # PyTorch and sympy load lazily
    print(f"{'nodes':>8} {'applications':>13} {'rewrite s':>10} {'µs/node':>9} {'ratio':>6} {'fold s':>8} {'ratio':>6}")
    base: tuple[float, float] | None = None
    for size in sorted(options.sizes):
        runs = [measure(size, active) for _ in range(options.repeat)]
        nodes, applications, rewriting, folding = min(runs, key=operator.itemgetter(2))
        folding = min(run[3] for run in runs)
        each = rewriting / nodes, folding / nodes
        base = base or each
        print(
            f"{nodes:>8} {applications:>13} {rewriting:>10.3f} {each[0] * 1e6:>9.1f} {each[0] / base[0]:>6.2f} "
            f"{folding:>8.3f} {each[1] / base[1]:>6.2f}"
        )


if __name__ == "__main__":
    main()
