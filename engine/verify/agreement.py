"""Both sides of a rule run against each other: what the pattern means, and what the right side gives.

The left side is PyTorch, eager.  The right side of a ``lower`` or ``simplify`` rule is the rewritten graph,
eager; that of a ``convert`` rule is the TensorRT network, run by the interpreter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from engine.conversion import BuiltNetwork, build, emit_network
from engine.dsl import tree
from engine.dsl.rule import Rule
from engine.errors import EngineError
from engine.evaluator import Context, Failure, apply
from engine.graph.mirror import Value
from engine.inner import InnerGraphs
from engine.interpreter import Program
from engine.matcher.matcher import Matcher
from engine.partitioner.tile import Tile
from engine.rewriter.rewriter import Rewriter
from engine.settings import CompilationSettings
from engine.verify.instance import Instance, execute, instance

if TYPE_CHECKING:
    from engine.dsl.ruleset import RuleSet

# Relative and absolute tolerance by dtype of the result: a few roundings of it.
TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    torch.float64: (1e-5, 1e-6),
    torch.float32: (1e-4, 2e-5),
    torch.float16: (1e-2, 2e-2),
    torch.bfloat16: (5e-2, 5e-2),
    torch.complex64: (1e-4, 2e-5),
}


class Disagreement(EngineError):
    """A rule does not do what its pattern means, or does not apply to its own test line."""


class NotApplied(Disagreement):
    """A rule does not apply to the instance that a test line describes."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What checking one rule with one test line showed.

    Attributes:
        runs: how many sets of inputs both sides agreed on.
    """

    runs: int


def check(rule: Rule, test: tree.Test, rules: RuleSet, *, seed: int = 0, engine: bool = False) -> Verdict:
    """Check that a rule fires on the instance that a test line describes, and that both sides agree.

    Args:
        engine: build an engine from the network of a ``convert`` rule as well, without running it.

    Raises:
        Inapplicable: the test line does not describe an instance of this rule.
        Disagreement: the rule does not fire, or fires on a ``reject`` line, or the sides differ.
    """
    made = instance(rule, test, seed, rules.macros)
    context = InnerGraphs(rules, CompilationSettings()).context(made.mirror)
    generator = torch.Generator().manual_seed(seed)
    samples = [made.inputs(sizes, generator) for sizes in made.sizes()]
    expected = [made.run(inputs) for inputs in samples]
    if test.rejects:
        if _fires(rule, made, context):
            raise Disagreement(f"{rule.id} fires on a graph that it must reject")
        return Verdict(0)
    if rule.kind == "convert":
        network = _network(rule, made, context)
        program = Program.from_network(network.network, network.weights.tensors)
        sizes = list(made.sizes())
        actual = [list(program(*inputs, *_scalars(network, size))) for inputs, size in zip(samples, sizes, strict=True)]
        if engine:
            build(network)
    else:
        _rewrite(rule, made, context)
        actual = [execute(made.mirror, inputs) for inputs in samples]
    for wanted, got in zip(expected, actual, strict=True):
        _compare(rule, wanted, got)
    return Verdict(len(samples))


def _scalars(network: BuiltNetwork, sizes: Mapping[Any, int]) -> list[torch.Tensor]:
    return [torch.tensor([int(expression.xreplace(dict(sizes)))]) for expression in network.scalars]


def _fires(rule: Rule, made: Instance, context: Context) -> bool:
    for match in Matcher([rule], made.mirror).matches(made.roots[0]):
        if not isinstance(apply(rule, match, context), Failure):
            return True
    return False


def _tile(rule: Rule, made: Instance, context: Context) -> Tile:
    root = made.roots[0]
    matcher = Matcher([rule], made.mirror)
    reason = ""
    for match in matcher.matches(root):
        plan = apply(rule, match, context)
        if not isinstance(plan, Failure):
            return Tile(root, rule, plan, match.nodes)
        reason = str(plan)
    if not reason:
        near = matcher.why_not(root, rule)
        reason = str(near)
    raise NotApplied(f"{rule.id} does not apply to its own test: {reason}")


def _network(rule: Rule, made: Instance, context: Context) -> BuiltNetwork:
    tile = _tile(rule, made, context)
    ranges = {symbol: (low, high, high) for symbol, (low, high) in made.ranges.items()}
    inputs = [Value(node, 0) for node in made.mirror.placeholders]
    return emit_network(made.mirror, [tile], inputs, made.outputs, ranges, CompilationSettings())


def _rewrite(rule: Rule, made: Instance, context: Context) -> None:
    before = _shape_of(made.mirror.graph)
    Rewriter(made.mirror, [rule], context, check=True).run()
    if _shape_of(made.mirror.graph) == before:
        match = next(iter(Matcher([rule], made.mirror).matches(made.roots[0])), None)
        if match is None:
            near = Matcher([rule], made.mirror).why_not(made.roots[0], rule)
            raise NotApplied(f"{rule.id} does not apply to its own test: {near}")
        raise NotApplied(f"{rule.id} does not apply to its own test: {apply(rule, match, context)}")


def _shape_of(graph: fx.Graph) -> list[tuple[str, str]]:
    return [(node.name, str(node.target)) for node in graph.nodes]


def _compare(rule: Rule, wanted: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> None:
    if len(wanted) != len(got):
        raise Disagreement(f"{rule.id}: {len(wanted)} outputs on the left, {len(got)} on the right")
    for index, (left, right) in enumerate(zip(wanted, got, strict=True)):
        relative, absolute = TOLERANCES.get(left.dtype, (0.0, 0.0))
        try:
            torch.testing.assert_close(
                right,
                left,
                rtol=relative,
                atol=absolute,
                equal_nan=True,
                check_device=False,
                check_stride=False,
            )
        except AssertionError as error:
            raise Disagreement(f"{rule.id}, output {index}: {error}") from error


__all__ = ["TOLERANCES", "Disagreement", "NotApplied", "Verdict", "check"]
