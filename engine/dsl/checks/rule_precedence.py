"""Precedence: which of two rules that match the same node is tried first.

A rule of a higher level wins; then ``over`` decides; then the more specific rule: the one that tests everything
that the other tests, and more.  Two rules that can match the same node and of which neither comes first are
ambiguous, which is an error.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence

from engine.dsl.checks.constraints import Constraints, ways_of
from engine.dsl.checks.limits import Budget
from engine.dsl.diagnostics import Problems
from engine.dsl.rule import Rule
from engine.dsl.vocabulary import PHASES


def order(
    rules: Sequence[Rule],
    problems: Problems,
    budget: Budget | None = None,
    *,
    given: Sequence[Rule] = (),
    known: Sequence[Sequence[int]] = (),
) -> tuple[list[Rule], list[tuple[str, str]], list[tuple[int, ...]]]:
    """Rules in precedence order with their ranks, which user rule overrides which built-in one, and what comes later.

    Args:
        given: built-in rules, ordered before.
        known: by rank of those, the ranks of what comes later; the last result of that time.

    The order is total and depends on the rules alone: phases in turn, and ids where nothing else decides.

    Raises:
        Exhausted: the rules are too many or too alike to be compared.
    """
    return _Order([*given, *rules], problems, budget or Budget(problems), given, known).run()


class _Order:
    def __init__(
        self,
        rules: Sequence[Rule],
        problems: Problems,
        budget: Budget,
        given: Sequence[Rule],
        known: Sequence[Sequence[int]],
    ) -> None:
        self.budget = budget
        self.rules = sorted(rules, key=lambda rule: (PHASES.index(rule.kind), rule.id))
        self.problems = problems
        self.ways: dict[int, list[Constraints]] = {}
        self.before: list[set[int]] = [set() for _ in self.rules]  # numbers of the rules that come later
        self.overridden: set[tuple[str, str]] = set()
        numbers = {(rule.kind, rule.id): number for number, rule in enumerate(self.rules)}
        place = [numbers[rule.kind, rule.id] for rule in given]
        self.given = frozenset(place)
        for number, later in zip(place, known, strict=True):
            self.before[number].update(place[rank] for rank in later)

    def run(self) -> tuple[list[Rule], list[tuple[str, str]], list[tuple[int, ...]]]:
        self._explicit()
        explicit = [set(later) for later in self.before]
        by_root: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number, rule in enumerate(self.rules):
            for op in rule.root_ops:
                by_root[rule.kind, op].append(number)
        undecided: list[tuple[int, int, bool]] = []
        seen: set[tuple[int, int]] = set()
        for group in by_root.values():
            for index, b in enumerate(group):
                for a in group[:index]:
                    if (a, b) not in seen and not (a in self.given and b in self.given):
                        seen.add((a, b))
                        undecided += self._compare(a, b, explicit)
        for a, b, same in undecided:
            if not self._reaches(a, b) and not self._reaches(b, a):
                self._ambiguous(a, b, same)
        ordered = self._sorted()
        ranks = {(rule.kind, rule.id): rule.rank for rule in ordered}
        rank = [ranks.get((rule.kind, rule.id), 0) for rule in self.rules]
        numbers = sorted(range(len(self.rules)), key=rank.__getitem__)
        return ordered, sorted(self.overridden), [tuple(sorted(rank[b] for b in self.before[a])) for a in numbers]

    def _explicit(self) -> None:
        by_name: dict[str, list[int]] = defaultdict(list)
        for number, rule in enumerate(self.rules):
            by_name[_base(rule)].append(number)
        for number, rule in enumerate(self.rules):
            if number in self.given:
                continue
            for name in rule.over:
                losers: Sequence[int] = by_name.get(name if "." in name else f"{rule.id.partition('.')[0]}.{name}", ())
                losers = [loser for loser in losers if self.rules[loser].kind == rule.kind]
                self.before[number].update(losers)
                below = [self.rules[loser].id for loser in losers if self.rules[loser].level < rule.level]
                self.overridden.update((rule.id, loser) for loser in below)

    def _ways(self, number: int) -> list[Constraints]:
        if number not in self.ways:
            found = self.ways[number] = ways_of(self.rules[number])
            # Facts are gathered part by part.
            self._spend(number, sum(len(way.facts) ** 2 for way in found) // 8)
        return self.ways[number]

    def _compare(self, a: int, b: int, explicit: Sequence[set[int]]) -> list[tuple[int, int, bool]]:
        """Order two rules of one root; returns them if nothing decides, and whether they test the same."""
        first, second = self.rules[a], self.rules[b]
        if b in explicit[a] or a in explicit[b]:
            return []
        pairs = len(self._ways(a)) * len(self._ways(b))
        facts = len(self._ways(a)[0].facts) + len(self._ways(b)[0].facts)
        self._spend(b, 8 + pairs * (2 + facts // 2))
        overlapping = [(x, y) for x in self._ways(a) for y in self._ways(b) if not x.excludes(y)]
        if not overlapping:
            return []
        if first.level != second.level:
            winner, loser = (a, b) if first.level > second.level else (b, a)
            self.before[winner].add(loser)
            self.overridden.add((self.rules[winner].id, self.rules[loser].id))
            return []
        a_tests_all = _all_imply([x for x, _ in overlapping], self._ways(b))
        b_tests_all = _all_imply([y for _, y in overlapping], self._ways(a))
        if a_tests_all and not b_tests_all:
            self.before[a].add(b)
        elif b_tests_all and not a_tests_all:
            self.before[b].add(a)
        else:
            return [(a, b, a_tests_all)]
        return []

    def _spend(self, number: int, amount: int) -> None:
        self.budget.spend(amount, self.rules[number].span)

    def _reaches(self, start: int, goal: int) -> bool:
        seen, waiting = {start}, [start]
        while waiting:
            following = self.before[waiting.pop()]
            self._spend(start, len(following))
            for later in following:
                if later == goal:
                    return True
                if later not in seen:
                    seen.add(later)
                    waiting.append(later)
        return False

    def _ambiguous(self, a: int, b: int, same: bool) -> None:
        first, second = self.rules[a], self.rules[b]
        if _place(first) > _place(second):
            first, second = second, first
        one, other = _base(first), _base(second)
        if one == other:
            message = f"two members of `{one}` match the same nodes"
            hint = "every member of a family needs an op or a literal of its own"
        elif same:
            message = f"`{one}` and `{other}` match the same nodes, so one of them never applies"
            hint = "remove one, or add a guard to it"
        else:
            message = f"`{one}` and `{other}` can match the same node and neither is more specific"
            short = other.partition(".")[2] if first.span.file == second.span.file else other
            hint = f"say which one wins: `over {short}` in `{one}`, or the reverse"
        related = None if one == other else (second.span, "the other rule")
        self.problems.report(message, first.span, hint, related)

    def _sorted(self) -> list[Rule]:
        waiting = [0] * len(self.rules)
        for later in self.before:
            for number in later:
                waiting[number] += 1
        ready = [number for number, count in enumerate(waiting) if count == 0]
        ordered: list[Rule] = []
        while ready:
            number = heapq.heappop(ready)
            ordered.append(self.rules[number].ranked(len(ordered)))
            for after in self.before[number]:
                waiting[after] -= 1
                if waiting[after] == 0:
                    heapq.heappush(ready, after)
        if len(ordered) < len(self.rules):
            self._circular([number for number, count in enumerate(waiting) if count > 0])
        return ordered

    def _circular(self, stuck: Sequence[int]) -> None:
        start = next(number for number in stuck if self._reaches(number, number))
        circle = [start]
        while True:
            following = min(n for n in self.before[circle[-1]] if n == start or self._reaches(n, start))
            if following in circle:
                circle = circle[circle.index(following) :]
                break
            circle.append(following)
        names = list(dict.fromkeys(_base(self.rules[number]) for number in circle))
        self.problems.report(
            f"precedence goes round in a circle: {' > '.join([*names, names[0]])}",
            self.rules[circle[0]].span,
            "remove an `over`",
        )


def _all_imply(ways: Sequence[Constraints], others: Sequence[Constraints]) -> bool:
    return all(any(way.implies(other) for other in others) for way in {id(way): way for way in ways}.values())


def _base(rule: Rule) -> str:
    return rule.id.partition("[")[0]


def _place(rule: Rule) -> tuple[str, int, int]:
    return rule.span.file, rule.span.line, rule.span.column
