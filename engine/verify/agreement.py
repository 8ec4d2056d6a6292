"""Both sides of a rule run against each other: what the pattern means, and what the right side computes.

The left side is PyTorch, eager.  The right side of a ``lower`` or ``simplify`` rule is the rewritten graph,
eager; that of a ``convert`` rule is the TensorRT network, run by the interpreter.  Values come in tiers
(:mod:`engine.verify.values`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from engine.builder import build
from engine.conversion import BuiltNetwork, emit_network
from engine.dsl import tree
from engine.dsl.rule import Rule
from engine.errors import EngineError
from engine.evaluator import Context, Failure, Faults, apply
from engine.evaluator.plan import Plan
from engine.interpreter import Program
from engine.lowering.subgraphs import Subgraphs
from engine.matcher.match import Match
from engine.matcher.matcher import Matcher
from engine.partitioner.tile import Tile
from engine.rewriter.rewriter import Rewriter
from engine.settings import CompilationSettings
from engine.verify.forms import described, fitting
from engine.verify.instances import Inapplicable, Instance, execute, instance
from engine.verify.values import (
    SPECIAL_DRAWS,
    Circumstances,
    Difference,
    Tier,
    excuses,
    is_elementwise,
    is_elementwise_layer,
    makes_ints_of_floats,
    rounds_to_steps,
)

if TYPE_CHECKING:
    from engine.dsl.ruleset import RuleSet

# Elements that an error shows.
_MOST_SHOWN = 24

_Run = Callable[[Sequence[torch.Tensor], Mapping[Any, int]], list[torch.Tensor]]


class Disagreement(EngineError):
    """A rule does not do what its pattern means, or does not apply to its own test line."""


class NotApplied(Disagreement):
    """A rule does not apply to the instance that a test line describes."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What checking one rule with one test line showed.

    Attributes:
        runs: how many sets of inputs both sides agreed on.
        needed: words of ``relax`` without which they would not have.
        expansion: which of the plain forms of the pattern matched.
    """

    runs: int
    needed: frozenset[str] = frozenset()
    expansion: int = 0


def check(
    rule: Rule,
    test: tree.Test,
    rules: RuleSet,
    *,
    seed: int = 0,
    form: int | None = None,
    engine: bool = False,
    drawn: bool = False,
) -> Verdict:
    """Check that a rule fires on the instance that a test line describes, and that both sides agree.

    Args:
        form: which of the plain patterns that the rule's pattern stands for to build (see :func:`instance`).
        engine: build an engine from the network of a ``convert`` rule as well, without running it.
        drawn: nobody wrote the line; where the rule does not apply, PyTorch is not asked whether it would, for
            not every kernel of it survives arguments that make no sense.

    Raises:
        Inapplicable: the test line does not describe an instance of this rule.
        Disagreement: the rule does not fire, or fires on a ``reject`` line, or the sides differ.
    """
    if test.rejects:
        made = instance(rule, test, seed, rules.macros, form=form)
        for sizes in made.sizes():
            made.run(made.inputs(sizes, torch.Generator().manual_seed(seed)))
        if _fires(rule, made, _context(made, rules)):
            raise Disagreement(f"{rule.id} fires on a graph that it must reject")
        return Verdict(0)
    runs, needed, expansion = 0, set(), 0
    # Constants are part of an instance: the two tiers that differ in them need one each.
    together: tuple[tuple[Tier, ...], ...] = (("normal", "exact", "special"),)
    if any(isinstance(binding.value, tree.TensorSpec) and binding.value.const for binding in test.bindings):
        together = (("normal", "special"), ("exact",))
    for tiers in together:
        tier = tiers[-1] if len(tiers) == 1 else "normal"
        trial = _Trial(rule, instance(rule, test, seed, rules.macros, tier=tier, form=form))
        if drawn:
            trial.match(rules)
        trial.draw(tiers, seed)
        if not trial.samples:
            continue
        expansion = trial.replace(rules, engine)
        trial.compare()
        runs += len(trial.samples)
        needed |= trial.needed
    return Verdict(runs, frozenset(needed), expansion)


def check_forms(rule: Rule, test: tree.Test, rules: RuleSet) -> frozenset[str]:
    """Check a line in every plain form of the pattern that it can describe; the words of ``relax`` that it needs.

    Without an optional op, or with operands exchanged, it may be no instance.

    Raises:
        Inapplicable: the line describes no instance of this rule.
        Disagreement: see :func:`check`.
    """
    form = described(rule, test)
    needed = check(rule, test, rules, form=form).needed
    for other in fitting(rule, test):
        if other != form and not test.rejects:
            with suppress(Inapplicable, NotApplied):
                needed |= check(rule, test, rules, form=other).needed
    return needed


def converted(
    rule: Rule, test: tree.Test, rules: RuleSet, *, seed: int = 0
) -> tuple[BuiltNetwork, list[list[torch.Tensor]]]:
    """The network that a ``convert`` rule makes of its test line, and inputs for it, one set for each of the sizes.

    All numbers are halves and small ints, so that products and sums of them are exact on any hardware.

    Raises:
        Inapplicable: the test line does not describe an instance of this rule.
        NotApplied: the rule does not apply to it.
    """
    trial = _Trial(rule, instance(rule, test, seed, rules.macros, tier="exact"))
    match, plan = trial.match(rules)
    trial.draw(("exact",), seed)
    network = _network(trial.made, Tile(trial.made.roots[0], rule, plan, match.nodes))
    return network, [[*sample.inputs, *_scalars(network, sample.sizes)] for sample in trial.samples]


@dataclass(slots=True)
class _Sample:
    tier: Tier
    sizes: Mapping[Any, int]
    inputs: list[torch.Tensor]
    expected: list[torch.Tensor]
    exact: list[torch.Tensor] | None


class _Trial:
    """One instance: inputs drawn, the left side run on them, then replaced, and the right side run."""

    def __init__(self, rule: Rule, made: Instance) -> None:
        self.rule = rule
        self.made = made
        self.samples: list[_Sample] = []
        self.needed: set[str] = set()
        self.right: _Run
        self.elementwise = _is_elementwise(made.mirror.graph)
        self.large = self.elementwise or "overflow" in rule.relax
        self.casts = makes_ints_of_floats(made.mirror.graph.nodes)
        self.rounds = rounds_to_steps(node.target for node in made.mirror.graph.nodes)

    def match(self, rules: RuleSet) -> tuple[Match, Plan]:
        """The match that the rule applies to.

        Raises:
            NotApplied: there is none.
        """
        root, context = self.made.roots[0], _context(self.made, rules)
        matcher = Matcher([self.rule], self.made.mirror)
        reason = ""
        for match in matcher.matches(root):
            plan = apply(self.rule, match, context)
            if not isinstance(plan, Failure):
                return match, plan
            reason = str(plan)
        raise NotApplied(f"{self.rule.id} does not apply to its own test: {reason or matcher.why_not(root, self.rule)}")

    def draw(self, tiers: Sequence[Tier], seed: int) -> None:
        """Draw inputs, and run the left side on them.

        Raises:
            Inapplicable: PyTorch rejects the inputs of the first tier.
        """
        generator = torch.Generator().manual_seed(seed)
        for tier in tiers:
            if tier == "special" and self.casts:
                continue
            # Of two operands more draws, or one special value seldom meets another in one place.
            many = SPECIAL_DRAWS * (4 if self.elementwise and len(self.made.specs) == 2 else 1)
            for sizes in self.made.sizes():
                for number in range(many if tier == "special" else 1):
                    inputs = self.made.inputs(sizes, generator, tier, draw=number, large=self.large)
                    try:
                        expected = self.made.run(inputs)
                    except Inapplicable:
                        if tier == "normal":
                            raise
                        continue  # PyTorch rejects such values, of which the rule need not know
                    exact = None if tier == "special" else self.made.run_exactly(inputs)
                    self.samples.append(_Sample(tier, sizes, inputs, expected, exact))

    def replace(self, rules: RuleSet, engine: bool) -> int:
        """Apply the rule; the number of the expansion that matched."""
        match, plan = self.match(rules)
        made = self.made
        if self.rule.kind != "convert":
            _rewrite(self.rule, made, _context(made, rules))
            self.elementwise = self.elementwise and _is_elementwise(made.mirror.graph)
            self.right = lambda inputs, sizes: execute(made.mirror, inputs)
            return match.expansion
        network = _network(made, Tile(made.roots[0], self.rule, plan, match.nodes))
        layers = [network.network.get_layer(index).type.name for index in range(network.network.num_layers)]
        self.elementwise = self.elementwise and all(map(is_elementwise_layer, layers))
        program = Program.from_network(network.network, network.weights.tensors)
        self.right = lambda inputs, sizes: list(program(*made.expanded(inputs), *_scalars(network, sizes)))
        if engine:
            build(network)
        return match.expansion

    def compare(self) -> None:
        """Run the right side and compare.

        Raises:
            Disagreement: the sides differ in what the rule does not ``relax``.
        """
        for sample in self.samples:
            self._compare(sample, self.right(sample.inputs, sample.sizes))

    def _compare(self, sample: _Sample, got: Sequence[torch.Tensor]) -> None:
        rule = self.rule
        if len(sample.expected) != len(got):
            raise Disagreement(f"{rule.id}: {len(sample.expected)} outputs on the left, {len(got)} on the right")
        given = Circumstances.of(
            sample.inputs,
            zeros=sample.tier == "special" and (self.elementwise or "signed_zero" in rule.relax),
            plain=sample.tier == "exact",
            halves=self.rounds and sample.tier == "exact",
            meeting=not self.elementwise,
        )
        for index, (left, right) in enumerate(zip(sample.expected, got, strict=True)):
            if "uninitialized" in rule.relax:
                left, right = torch.zeros_like(left), torch.zeros_like(right)
            exact = None if sample.exact is None else sample.exact[index]
            where = f"{rule.id}, output {index}, {sample.tier} values"
            try:
                words = excuses(left, right, exact=exact, given=given, relax=rule.relax)
            except Difference as difference:
                shown = _sides(left, right) + self._operands(sample)
                raise Disagreement(f"{where}: {difference}{shown}") from difference
            missing = sorted(words - set(rule.relax) - {"reassociation?"})
            if missing:
                allowed = f"the sides differ in what only `relax {missing[0]}` allows"
                raise Disagreement(f"{where}: {allowed}{_sides(left, right)}{self._operands(sample)}")
            self.needed |= {word.removesuffix("?") for word in words}

    def _operands(self, sample: _Sample) -> str:
        """The operands, where they are few enough to read."""
        if not sample.inputs or sum(tensor.numel() for tensor in sample.inputs) > _MOST_SHOWN:
            return ""
        named = zip(self.made.specs, sample.inputs, strict=True)
        return "\nfor " + ", ".join(f"{node.name} = {_shown(tensor)}" for node, tensor in named)


def _sides(left: torch.Tensor, right: torch.Tensor) -> str:
    """The results of both sides, where they are small enough to read."""
    if left.numel() > _MOST_SHOWN or left.shape != right.shape:
        return ""
    return f"\nPyTorch returns {_shown(left)}\nthe rule returns {_shown(right)}"


def _shown(tensor: torch.Tensor) -> str:
    elements = tensor.flatten().tolist()
    return f"[{', '.join(f'{item:.6g}' if isinstance(item, float) else str(item) for item in elements)}]"


def _is_elementwise(graph: fx.Graph) -> bool:
    return all(is_elementwise(node.target) for node in graph.nodes if node.op == "call_function")


def _context(made: Instance, rules: RuleSet) -> Context:
    return Subgraphs(rules, CompilationSettings(), faults=Faults(strict=True)).context(made.mirror)


def _scalars(network: BuiltNetwork, sizes: Mapping[Any, int]) -> Iterator[torch.Tensor]:
    for expression in network.scalars:
        yield torch.tensor(int(expression.xreplace(dict(sizes))))


def _fires(rule: Rule, made: Instance, context: Context) -> bool:
    for match in Matcher([rule], made.mirror).matches(made.roots[0]):
        if not isinstance(apply(rule, match, context), Failure):
            return True
    return False


def _network(made: Instance, tile: Tile) -> BuiltNetwork:
    ranges = {symbol: (low, high, high) for symbol, (low, high) in made.ranges.items()}
    return emit_network(made.mirror, [tile], made.entries(), made.outputs, ranges, CompilationSettings())


def _rewrite(rule: Rule, made: Instance, context: Context) -> None:
    before = _shape_of(made.mirror.graph)
    Rewriter(made.mirror, [rule], context, check=True).run()
    if _shape_of(made.mirror.graph) == before:
        raise NotApplied(f"{rule.id} fits its own test, and the rewriter does not apply it")


def _shape_of(graph: fx.Graph) -> list[tuple[str, str]]:
    return [(node.name, str(node.target)) for node in graph.nodes]


__all__ = ["Disagreement", "NotApplied", "Verdict", "check", "check_forms", "converted"]
