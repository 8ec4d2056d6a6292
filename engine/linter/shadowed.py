"""Rules that never get their turn, because an earlier one always takes what they match."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from engine.dsl.checks.constraints import Constraints, ways_of
from engine.dsl.rule import Rule
from engine.linter.finding import Finding
from engine.linter.subject import Subject, name_of


def shadowed(subject: Subject) -> Iterator[Finding]:
    """Rules with one root behind a `simplify` or `lower` rule that tests no more than they do.

    A `convert` rule in front of another one is no such rule: where a layer does not take its operands, the next one
    gets its turn.
    """
    earlier: dict[str, list[Rule]] = defaultdict(list)
    for rule in subject.ruleset.rules:
        if rule.kind != "convert" and len(rule.roots) == 1:
            earlier[rule.roots[0].op].append(rule)
    ways: dict[int, list[Constraints]] = {}

    def of(rule: Rule) -> list[Constraints]:
        if rule.rank not in ways:
            ways[rule.rank] = ways_of(rule)
        return ways[rule.rank]

    active = {rule.rank: rule for rule in subject.ruleset.rules}
    for file, item, rules in subject.items():
        for rule in rules:
            if active.get(rule.rank) is not rule or len(rule.roots) != 1:
                continue
            for other in earlier[rule.roots[0].op]:
                if other.rank < rule.rank and other.span != rule.span and _covers(of(other), of(rule)):
                    yield Finding(
                        "R102",
                        item.span,
                        f"`{other.id.partition('[')[0]}` comes before and takes all that this matches",
                        name_of(file, item),
                        _advice(other, rule),
                        (other.span, "the rule before"),
                    )
                    break


def _advice(first: Rule, second: Rule) -> str:
    """What to do about a rule that comes before another one."""
    name = first.id.partition("[")[0]
    if first.kind == second.kind:
        return f"give that one a guard, or write `over {name}` here"
    # `over` orders rules of one kind; kinds have an order of their own, whosever the rules are.
    own = f"a `{first.kind}` rule runs before any `{second.kind}` rule"
    return f'{own}: give it a guard, or leave it out by `RuleSet.load(..).without("{name}")`'


def _covers(first: Sequence[Constraints], second: Sequence[Constraints]) -> bool:
    """Whether whatever satisfies one of the second satisfies one of the first."""
    return all(any(way.implies(other) for other in first) for way in second)


__all__ = ["shadowed"]
