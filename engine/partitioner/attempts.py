"""How far each rule gets at a node, and the first test that fails: what reports and ``engine why`` say.

Attempts look at the graph as it is when rewriting has come to an end.  They edit nothing, and what rules do wrong on
the way is not told again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import fx

from engine.dsl.forms import ops_in
from engine.dsl.rule import Rule
from engine.evaluator import Context, Failure, Faults, apply
from engine.graph.mirror import Mirror
from engine.graph.provenance import op_of_user
from engine.matcher.match import Match
from engine.matcher.matcher import Matcher
from engine.partitioner.unsupported import unsupported_reason, with_nature
from engine.rewriter.trials import Trials

KINDS = ("simplify", "lower", "convert")
"""The kinds of rules in the order in which a node meets them."""

# How far below a node the root of a pattern is looked for that has the node's op inside.
_LEVELS = 4
_MOST_READERS = 64


@dataclass(frozen=True, slots=True)
class Attempt:
    """One rule at one node.

    Attributes:
        passed: how many of its tests held.
        reason: the first test that failed, with what was expected and what was found, or why it is inactive;
            empty where the rule applies.
        inactive: it is not tried at all.
    """

    rule: Rule
    passed: int
    reason: str
    inactive: bool = False

    @property
    def applies(self) -> bool:
        """Whether nothing stands in its way."""
        return not self.reason

    def __str__(self) -> str:
        head = f"{self.rule.id} ({self.rule.where})"
        if self.inactive:
            return f"{head} is inactive here: {self.reason}"
        return f"{head} does not apply: {self.reason}" if self.reason else f"{head} applies"


@dataclass(slots=True)
class Attempts:
    """The rules of a graph, and why they do not apply to its nodes.

    Attributes:
        matchers: of the active rules, by kind.
        inactive: rules that are not tried, each with the reason.
        set_aside: id of a rule that was applied no more, because rewriting would not have ended -> why.
    """

    context: Context
    matchers: Mapping[str, Matcher]
    inactive: Sequence[tuple[Rule, str]] = ()
    set_aside: Mapping[str, str] = field(default_factory=dict)
    _inner: dict[str, list[Rule]] | None = field(default=None, repr=False)

    @property
    def mirror(self) -> Mirror:
        """The graph."""
        return self.context.mirror

    def of(self, node: fx.Node, kind: str) -> list[Attempt]:
        """The rules of a kind that have a root of the node's op, in precedence order, inactive ones last."""
        op = self.mirror.op(node)
        found = [self.attempt(node, rule) for rule in self.matchers[kind].roots_of(op)]
        for rule, reason in self.inactive:
            if rule.kind == kind and any(root.op == op for root in rule.roots):
                found.append(Attempt(rule, -1, reason, inactive=True))
        return found

    def attempt(self, node: fx.Node, rule: Rule) -> Attempt:
        """How far an active rule gets at a node."""
        miss = self.matchers[rule.kind].why_not(node, rule, self._guards(rule))
        why = str(miss).removeprefix(f"{rule.id} at {node.name}: ")
        if rule.id in self.set_aside:
            return Attempt(rule, miss.passed, f"it is not applied any more: {self.set_aside[rule.id]}")
        return Attempt(rule, miss.passed, "" if miss.matched else why)

    def _guards(self, rule: Rule) -> Callable[[Match], str | None]:
        # What rules do wrong was told when they were tried.
        context = replace(self.context, faults=Faults(strict=False))
        trials = Trials(self.mirror, context, check=False)

        def objection(match: Match) -> str | None:
            if context.choices is not None and context.choices.passes_over(match, self.mirror):
                return "another way was measured to be faster (tune), or this one was not measured to be"
            found = apply(rule, match, context) if rule.kind == "convert" else trials.replacement(match)
            return str(found) if isinstance(found, Failure) else None

        return objection

    def nearest(self, node: fx.Node) -> str:
        """Why no rule takes a node: the rule that came nearest and the test that failed."""
        op = self.mirror.op(node)
        wrapped = op_of_user(node)
        if wrapped is not None:
            written = [argument.name for argument in wrapped._schema.arguments if argument.is_write]
            does = f"writes to its argument {' and '.join(map(repr, written))}" if written else "has effects of its own"
            return f"no rule converts {wrapped}: it {does}, and rules are for ops that only give results"
        matcher = self.matchers["convert"]
        misses = [matcher.why_not(node, rule) for rule in matcher.roots_of(op)]
        if misses:
            best = max(misses, key=lambda miss: miss.passed)
            why = str(best).removeprefix(f"{best.rule.id} at {node.name}: ")
            return with_nature(f"nearest rule {best.rule.id} ({best.rule.where}): {why}", self.mirror, node)
        for rule, reason in self.inactive:
            if rule.kind == "convert" and any(root.op == op for root in rule.roots):
                return f"{rule.id} ({rule.where}) is inactive here: {reason}"
        known = unsupported_reason(node.target)
        if known is not None:
            return f"no rule converts {op}: {known}"
        undecomposed = node.meta.get("undecomposed")
        return f"no rule converts {op}" + (f", and {undecomposed}" if undecomposed else "")

    def rewriting(self, node: fx.Node) -> list[str]:
        """Why rules of the user, or any where no rule converts the op, did not rewrite a node: a line for a kind."""
        lines: list[str] = []
        op = self.mirror.op(node)
        converts = bool(self.matchers["convert"].roots_of(op))
        for kind in ("lower", "simplify"):
            found = [attempt for attempt in self.of(node, kind) if not attempt.applies]
            own = [attempt for attempt in found if attempt.rule.level > 0]
            candidates = own or ([] if converts or lines else found)
            if candidates:
                best = max(candidates, key=lambda attempt: (not attempt.inactive, attempt.passed))
                lines.append(f"the `{kind}` rule {best}")
        if not lines:
            lines += self._inside(node) or ([] if converts else self._no_such_reader(node))
        return lines

    def _inside(self, node: fx.Node) -> list[str]:
        """Why a rule of the user whose pattern has the op further inside did not take it along with its readers."""
        attempts = [
            self.attempt(reader, rule)
            for rule in self._with_inner().get(self.mirror.op(node), ())
            for reader in self._readers(node)
            if any(root.op == self.mirror.op(reader) for root in rule.roots)
        ]
        failed = [attempt for attempt in attempts if attempt.reason]
        best = max(failed, key=lambda attempt: attempt.passed, default=None)
        return [] if best is None else [f"the `{best.rule.kind}` rule {best}"]

    def _no_such_reader(self, node: fx.Node) -> list[str]:
        """The rule of the user whose pattern has the op further inside, and the root that nothing here is."""
        rule = next(iter(self._with_inner().get(self.mirror.op(node), ())), None)
        if rule is None:
            return []
        roots = " or ".join(dict.fromkeys(root.op for root in rule.roots))
        return [
            f"the `{rule.kind}` rule {rule.id} ({rule.where}) has the op inside its pattern, which begins at "
            f"{roots}: none is near that reads {node.name}"
        ]

    def _with_inner(self) -> Mapping[str, list[Rule]]:
        """The user's rules by the ops that their patterns have below the root."""
        if self._inner is None:
            self._inner = defaultdict(list)
            for kind in KINDS:
                for rule in self.matchers[kind].rules:
                    if rule.level > 0:
                        inner = {op.op for root in rule.roots for op in ops_in(root) if op is not root}
                        for op in inner:
                            self._inner[op].append(rule)
        return self._inner

    def _readers(self, node: fx.Node) -> list[fx.Node]:
        """What reads a node, directly or through other nodes, as far as patterns commonly reach."""
        found: dict[fx.Node, None] = {}
        level = [node]
        for _ in range(_LEVELS):
            level = [user for before in level for user in self.mirror.node_users(before) if user not in found]
            found.update(dict.fromkeys(level))
            if len(found) > _MOST_READERS:
                break
        return list(found)

    def reason(self, node: fx.Node, said: str | None = None) -> str:
        """Why a node has no tile: ``said`` or else the nearest ``convert`` rule, then rules that did not rewrite it."""
        return "\n".join([self._of_other_gpus(node) or said or self.nearest(node), *self.rewriting(node)])

    def _of_other_gpus(self, node: fx.Node) -> str | None:
        """The rule that takes a node on other GPUs than those that the engine is built for."""
        op = self.mirror.op(node)
        for rule, reason in self.inactive:
            if rule.kind == "convert" and reason.startswith("needs target.") and rule.roots[0].op == op:
                matches = Matcher((rule,), self.mirror).matches(node)
                if any(apply(rule, match, self.context) for match in matches):
                    return f"{rule.id} ({rule.where}) is inactive here: {reason}"
        return None


__all__ = ["KINDS", "Attempt", "Attempts"]
