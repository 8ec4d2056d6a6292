"""Whether a rule that fits at a node can be applied there, and what it would put in its place.

The graph is not touched: the rewriter commits what a trial gives, and explanations ask again why there was none.
"""

from __future__ import annotations

from engine.evaluator import Context, Failure, apply, decreasing
from engine.evaluator.failures import Failed, Raised
from engine.graph.mirror import Mirror
from engine.matcher.match import Match
from engine.rewriter.commit import Replacement, disagreements, prepare, shrinkage


class Trials:
    """Trials of ``simplify`` and ``lower`` rules on matches of their patterns.

    Args:
        context: what rules may look at; what they do wrong is told to its ``faults``.
        check: raise what they do wrong, and demand that both sides certainly have the same shape.
    """

    def __init__(self, mirror: Mirror, context: Context, *, check: bool) -> None:
        self.mirror = mirror
        self.context = context
        self.check = check

    def replacement(self, match: Match) -> Replacement | Failure:
        """What a rule would put in the place of a match, or why it does not apply."""
        rule = match.rule
        plan = apply(rule, match, self.context)
        if isinstance(plan, Failure):
            return plan
        replacement = prepare(self.mirror, rule, match.roots, match.nodes, plan)
        if isinstance(replacement, Failure):
            return replacement
        wrong = disagreements(self.mirror, replacement, certain=self.check)
        if wrong is not None:
            return self.fault(match, wrong, kind="disagrees")
        if rule.kind == "simplify":
            return self._shrinking(match, replacement)
        if rule.decreases is None:
            return replacement
        measure = self.measure(match)
        return measure if isinstance(measure, Failure) else replacement

    def _shrinking(self, match: Match, replacement: Replacement) -> Replacement | Failure:
        """A replacement by a ``simplify`` rule, where it makes the graph smaller."""
        saved = shrinkage(self.mirror, replacement)
        if saved:
            return replacement
        if saved.survives:
            return Failure("matched nodes stay for other users, so the graph would not get smaller")
        if saved.folds:
            return Failure("matched nodes are constant and folded anyway, so the graph would not get smaller")
        more = f"{-saved.live} nodes more than" if saved.live else "as many nodes as"
        message = (
            f"{match.rule.id} is a `simplify` rule, but{{at}} it leaves {more} it "
            "removes, where it must leave fewer; make it a `lower` rule, or match more"
        )
        return self.fault(match, message, kind="grows")

    def measure(self, match: Match) -> int | Failure:
        """The measure of a rule that has one, or why it does not apply."""
        rule = match.rule
        try:
            measure = decreasing(rule, match, self.context)
        except (Failed, Raised, TypeError, ValueError, OverflowError) as failed:
            return self.fault(
                match, f"the `decreases` of {rule.id} has no value{{at}}: {failed}", kind="measure", cause=failed
            )
        assert measure is not None
        if measure < 0:
            message = f"the `decreases` of {rule.id} is {measure}; it must not be negative"
            return self.fault(match, message, kind="measure")
        return measure

    def fault(self, match: Match, message: str, *, kind: str, cause: BaseException | None = None) -> Failure:
        """Tell what a rule did wrong; gives it as the reason why the rule does not apply."""
        node = match.roots[0]
        self.context.faults.tell(match.rule, node, message, kind=kind, strict=self.check, cause=cause)
        return Failure(message.replace("{at}", ""))


__all__ = ["Trials"]
