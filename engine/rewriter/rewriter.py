"""The rewriter: applies ``simplify`` and ``lower`` rules until none applies.

The two kinds take turns.  ``simplify`` runs to quiescence first, because it looks for composites that ``lower``
takes apart, then ``lower`` does, and what each of them changed goes back to the other.  Each kind has its own
worklist, so a turn costs what changed and not the size of the graph.

Rewrites happen where something is computed at run time.  Constant subgraphs are evaluated as they stand when
constants are folded; only rules that ask for constants alone rewrite them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from torch import fx

from engine.dsl.memo import Recent
from engine.dsl.rule import Bind, ListMatch, OneOf, OpMatch, Rule
from engine.dtypes import CLASSES, DTYPES
from engine.errors import EngineError
from engine.evaluator import Context, Failure
from engine.evaluator.faults import checking
from engine.graph.mirror import Mirror, Value
from engine.graph.provenance import describe
from engine.matcher.match import Match
from engine.matcher.matcher import Count, Matcher
from engine.observers import RewriteEvent, listens, observed
from engine.rewriter.change import Change, computed, counts
from engine.rewriter.commit import Committer, Replacement
from engine.rewriter.fuel import Fuel, op_order
from engine.rewriter.reach import reach
from engine.rewriter.trace import Application, Trace, listed
from engine.rewriter.trials import Trials
from engine.rewriter.worklist import Worklist

# Turns of `simplify` and `lower`; each needs one turn per level of composites, of which models have a handful.
LARGEST_ROUNDS = 64
# Rewrites before one rule is taken to multiply nodes without end; models have fewer by an order of magnitude.
_MOST_APPLICATIONS = 20_000
_MOST_PER_NODE = 100
# How far back the rule is looked for that keeps others from coming to an end.
_LAST = 20
_TENSORS = {*DTYPES, *CLASSES}


@dataclass(slots=True)
class RewriteStats:
    """What a run of the rewriter did.

    Attributes:
        visited: nodes looked at, counting repeats.
        applications: rewrites by rules.
        decompositions: nodes expanded by PyTorch's decompositions.
        rounds: times the rewriter switched between ``simplify`` and ``lower``.
        seconds: time in all.
        set_aside: id of a rule that was not applied any more -> why.
        counts: id of a rule -> how often it was looked at.
    """

    visited: int = 0
    applications: int = 0
    decompositions: int = 0
    rounds: int = 0
    seconds: float = 0.0
    set_aside: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Count] = field(default_factory=dict)


class _Phase:
    """The rules of one kind and the nodes they have yet to look at."""

    def __init__(self, kind: str, rules: Sequence[Rule], context: Context) -> None:
        self.kind = kind
        self.rules = tuple(rule for rule in rules if rule.kind == kind)
        self.matcher = Matcher(self.rules, context.mirror, context.choices)
        self.reach = reach(self.rules)
        self.worklist = Worklist()


def _of_constants(rules: Sequence[Rule]) -> dict[str, set[str]]:
    """The ids of the rules that ask for constants alone, by the op that they rewrite.

    All others leave constants to be folded, as PyTorch computes them.
    """
    found: dict[str, set[str]] = {}
    for rule in rules:
        (root, *others) = rule.roots
        patterns = [pattern for _, pattern in root.arguments]
        kinds = [pattern.type for pattern in patterns if isinstance(pattern, Bind) and pattern.type is not None]
        tensors = [kind for kind in kinds if set(kind.names) & _TENSORS]
        inner = any(isinstance(pattern, OpMatch | OneOf | ListMatch) for pattern in patterns)
        if not others and not inner and tensors and all(kind.modifier == "const" for kind in tensors):
            found.setdefault(root.op, set()).add(rule.id)
    return found


_rules_of_constants = Recent(_of_constants)


class Rewriter:
    """Rewriting of one graph.

    Args:
        rules: ``simplify`` and ``lower`` rules in precedence order; rules of other kinds are ignored.
        trace: where applications are recorded; only the newest are kept when there is none.
        check: verify every application by inferring the new nodes again, and quiescence by a full scan;
            by default what the environment variable ``ENGINE_CHECK`` says.
    """

    def __init__(
        self,
        mirror: Mirror,
        rules: Sequence[Rule],
        context: Context,
        *,
        trace: Trace | None = None,
        check: bool | None = None,
    ) -> None:
        self.mirror = mirror
        self.context = context
        self.trace = trace if trace is not None else Trace(limit=20)
        self.check = checking() if check is None else check
        self.stats = RewriteStats()
        self.trials = Trials(mirror, context, check=self.check)
        self._simplify = _Phase("simplify", rules, context)
        self._lower = _Phase("lower", rules, context)
        self._phases = (self._simplify, self._lower)
        self._of_constants = _rules_of_constants(self._lower.rules)
        self._fuel = Fuel(op_order(self._lower.rules, context.macros))
        self._committer = Committer(mirror, check=self.check)
        # Rules that are set aside for good, and pairs of roots and rule that cannot be applied.
        self._barred: set[str] = set()
        self._refused: set[tuple[tuple[fx.Node, ...], str]] = set()
        for rule in self._lower.rules:
            if rule.id in self._fuel.order.endless:
                self._bar(rule, None, self._fuel.order.endless[rule.id], kind="endless")
        nodes = [node for node in mirror.graph.nodes if self._rewritable(node)]
        self._fuel.grant(map(mirror.op, nodes))
        for phase in self._phases:
            phase.worklist = Worklist(node for node in nodes if phase.reach.of(mirror.op(node)) >= 0)
        self._applications = _MOST_APPLICATIONS + _MOST_PER_NODE * len(nodes)

    # ------------------------------------------------------------ the loop

    def run(self) -> RewriteStats:
        """Rewrite until no rule applies anywhere.

        A rule that breaks its promise is not applied, or not any more, and the context is told: one that gives
        another dtype or shape, a ``simplify`` rule that does not simplify, ``lower`` rules that do not end, and
        rules of the two kinds that undo each other.

        Raises:
            EngineError: a rule does that, and applications are checked.
        """
        started = perf_counter()
        rounds = since = 0
        while any(phase.worklist for phase in self._phases):
            for phase in self._phases:
                self._exhaust(phase)
            rounds, since = rounds + 1, since + 1
            if since > LARGEST_ROUNDS:
                self._stop(
                    "simplify",
                    f"`simplify` and `lower` rules undo each other: {LARGEST_ROUNDS} rounds did not come to an end",
                )
                since = 0
        self.stats.rounds += rounds
        self.stats.seconds += perf_counter() - started
        self.stats.counts = {**self._simplify.matcher.stats, **self._lower.matcher.stats}
        if self.check:
            self._assert_quiescent()
        return self.stats

    def _exhaust(self, phase: _Phase) -> None:
        while (node := phase.worklist.pop()) is not None:
            self.stats.visited += 1
            self.trace.visited += 1
            if not self._rewritable(node):
                continue
            found = self._first(phase, node)
            if found is not None and not self._observed(phase, *found):
                phase.worklist.push(node)  # for the next rule

    def _rewritable(self, node: fx.Node) -> bool:
        """Whether rules may look at a node: one that computes, or a constant that a rule asks for."""
        if counts(self.mirror, node):
            return True
        return computed(self.mirror, node) and self.mirror.op(node) in self._of_constants

    def _first(self, phase: _Phase, node: fx.Node) -> tuple[Match, Replacement] | None:
        """The first rule in precedence order that applies at a node, with its plan."""
        rules = None if counts(self.mirror, node) else self._of_constants[self.mirror.op(node)]
        for match in phase.matcher.matches(node):
            rule = match.rule
            if rules is not None and rule.id not in rules:
                continue
            if rule.id in self._barred or (match.roots, rule.id) in self._refused:
                continue
            counter = self.trace.counter(rule.id)
            counter.matches += 1
            started = perf_counter()
            replacement = self.trials.replacement(match)
            counter.seconds += perf_counter() - started
            if not isinstance(replacement, Failure):
                return match, replacement
            counter.failures[replacement.reason] = counter.failures.get(replacement.reason, 0) + 1
        return None

    def _bar(self, rule: Rule, node: fx.Node | None, message: str, *, kind: str) -> None:
        """Set a rule aside for the rest of this graph, and tell why."""
        outcome = "It is not applied any more"
        self.context.faults.tell(rule, node, message, kind=kind, outcome=outcome, strict=self.check)
        self._barred.add(rule.id)
        self.stats.set_aside[rule.id] = message

    def _stop(self, kind: str, message: str) -> None:
        """Set aside the rule of a kind that was applied most often of late, so that rewriting comes to an end."""
        last = self.trace.last(_LAST)
        message = f"{message}.  The last applications were\n{listed(last)}"
        if self.check:
            raise EngineError(message)
        often = Counter(application.rule for application in reversed(last)).most_common()
        rules = {rule.id: rule for phase in self._phases for rule in phase.rules}
        known = [rules[name] for name, _ in often if name in rules]
        chosen = next((rule for rule in known if rule.kind == kind), known[0])
        self._bar(chosen, None, f"{chosen.id} did the most of the last rewrites: {message}", kind="endless")

    def _observed(self, phase: _Phase, match: Match, replacement: Replacement) -> bool:
        if not listens("rewrite"):
            return self._apply(phase, match, replacement) is not None
        rule = match.rule
        before = {node.name: self.mirror.op(node) for node in replacement.nodes}
        with observed("rewrite", RewriteEvent, rule.id, rule.where, rule.kind, before) as event:
            change = self._apply(phase, match, replacement)
            if event is not None and change is not None:
                event.after = {node.name: self.mirror.op(node) for node in change.new}
        return change is not None

    def _apply(self, phase: _Phase, match: Match, replacement: Replacement) -> Change | None:
        """Edit the graph; None, and the graph as it was, where that fails."""
        rule = match.rule
        started = perf_counter()
        roots = tuple(node.name for node in match.roots)
        matched = tuple(node.name for node in replacement.nodes)
        # Measured before the edit: the matched nodes are gone after it.
        measure = self.trials.measure(match) if rule.decreases is not None else None
        root_ops = [self.mirror.op(node) for node in match.roots]
        try:
            change = self._committer.commit(replacement)
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            failure = self.trials.fault(
                match, f"{rule.id} cannot be applied{{at}}: {first}", kind="commit", cause=error
            )
            failures = self.trace.counter(rule.id).failures
            failures[failure.reason] = failures.get(failure.reason, 0) + 1
            self._refused.add((match.roots, rule.id))
            return None
        self.stats.applications += 1
        self.trace.applied(
            Application(rule.id, rule.where, rule.kind, roots, matched, tuple(node.name for node in change.new))
        )
        ops = [self.mirror.op(node) for node in change.new if self._rewritable(node)]
        if phase is self._lower:
            if measure is not None and not isinstance(measure, Failure):
                self._check_decreased(match, measure, root_ops, change)
            if not self._fuel.spend(rule, ops):
                self._stop(
                    "lower",
                    f"`lower` rules did more rewrites than their op order allows; {rule.id} ({rule.where}) did the "
                    "last one",
                )
                self._fuel.left = 0
                self._fuel.grant(self.mirror.op(node) for node in self.mirror.graph.nodes if self._rewritable(node))
        else:
            self._fuel.grant(ops)
        self._applications -= 1
        if self._applications < 0:
            self._stop(rule.kind, "there were more rewrites than nodes can need")
            self._applications = _MOST_APPLICATIONS
        self.absorb(change)
        self.trace.counter(rule.id).seconds += perf_counter() - started
        return change

    # ------------------------------------------------------------ what to look at again

    def absorb(self, change: Change) -> None:
        """Look again at everything that a change can give a match.

        Those are the new nodes; users of the new values as far down as patterns reach; nodes that lost a use,
        and their users likewise, because an interior that had other users may have become exclusive.
        """
        for node in change.new:
            self._push(node, 0)
        self._push_down(dict.fromkeys(change.users))
        if change.became_const:
            constant = self._constant_from(change.users)
            self._push_down(dict.fromkeys(user for node in constant for user in self.mirror.node_users(node)))
        lonely: list[fx.Node] = []
        for node in change.fell:
            self._push(node, 0)
            if node.op == "call_function" and self._few_users(node):
                lonely.append(node)
        self._push_down(dict.fromkeys(user for node in lonely for user in self.mirror.node_users(node)))

    def decomposed(self, change: Change, application: Application) -> None:
        """Take in an expansion by PyTorch."""
        self.stats.decompositions += 1
        self.trace.applied(application)
        self._fuel.grant(self.mirror.op(node) for node in change.new if self._rewritable(node))
        self.absorb(change)

    def _push(self, node: fx.Node, distance: int) -> None:
        if node._erased or node.op != "call_function":
            return
        op = self.mirror.op(node)
        for phase in self._phases:
            if phase.reach.of(op) >= distance:
                phase.worklist.push(node)

    def _push_down(self, users: dict[fx.Node, None]) -> None:
        """Push nodes that use something that changed, and their users as far down as patterns reach."""
        seen = dict(users)
        level = list(users)
        for distance in range(1, max(phase.reach.depth for phase in self._phases) + 1):
            below: dict[fx.Node, None] = {}
            for node in level:
                self._push(node, distance)
                below.update((user, None) for user in self.mirror.node_users(node) if user not in seen)
            seen.update(below)
            level = list(below)

    def _constant_from(self, users: Iterable[fx.Node]) -> list[fx.Node]:
        """Nodes that are constant now because an operand is: constness reaches further than patterns."""
        found: dict[fx.Node, None] = {}
        stack = list(users)
        while stack:
            node = stack.pop()
            if node not in found and node.op == "call_function" and self.mirror.is_const(Value(node, 0)):
                found[node] = None
                stack.extend(self.mirror.node_users(node))
        return list(found)

    def _few_users(self, node: fx.Node) -> bool:
        """Whether a node has so few users that all of them can be inside one match."""
        limit = max(phase.reach.size for phase in self._phases)
        return all(count <= limit for count, _ in enumerate(self.mirror.each_user(node), start=1))

    # ------------------------------------------------------------ assertions

    def _check_decreased(self, match: Match, measure: int, root_ops: Sequence[str], change: Change) -> None:
        """New ops that can lead back to the root must have a smaller measure, in every rule that fits them."""
        rule, order = match.rule, self._fuel.order
        for node in change.new:
            op = self.mirror.op(node)
            if not any(order.cyclic(root, op) for root in root_ops):
                continue
            for again in self._lower.matcher.matches(node):
                if again.rule.decreases is None or again.rule.id in self._barred:
                    continue
                after = self.trials.measure(again)
                if not isinstance(after, Failure) and after >= measure:
                    message = (
                        f"the `decreases` of {rule.id} went from {measure} to {after} at {node.name}, "
                        f"where {again.rule.id} ({again.rule.where}) fits again; it must get smaller at every step"
                    )
                    self._bar(rule, None, message, kind="measure")
                    return

    def _assert_quiescent(self) -> None:
        for phase in self._phases:
            for node in self.mirror.graph.nodes:
                if not self._rewritable(node):
                    continue
                found = self._first(phase, node)
                if found is not None:
                    raise EngineError(
                        f"internal error: {found[0].rule.id} ({found[0].rule.where}) still applies at {describe(node)} "
                        "after rewriting came to an end"
                    )


def rewrite(
    mirror: Mirror,
    rules: Sequence[Rule],
    context: Context,
    *,
    trace: Trace | None = None,
    check: bool | None = None,
) -> RewriteStats:
    """Apply ``simplify`` and ``lower`` rules to a graph until none applies; see :class:`Rewriter`."""
    return Rewriter(mirror, rules, context, trace=trace, check=check).run()


__all__ = ["RewriteStats", "Rewriter", "rewrite"]
