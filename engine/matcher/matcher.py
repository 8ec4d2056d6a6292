"""The matcher: which rules fit at a node, and why others do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from engine.dsl.rule import Rule
from engine.graph.mirror import Mirror, Value
from engine.matcher.automaton import Trie, automaton
from engine.matcher.choices import Choices
from engine.matcher.compiled_pattern import Check, Program, Search
from engine.matcher.conditions import IsOp
from engine.matcher.match import Match, NearMiss
from engine.matcher.paths import MISSING, Frame, PathTable


@dataclass(slots=True)
class Count:
    """How often a rule was looked at, and how often its pattern fit."""

    attempts: int = 0
    matches: int = 0


class Matcher:
    """Finds structural matches of rules; guards are the caller's.

    Args:
        choices: which matches are passed over, where ways were measured.

    Attributes:
        depth: the number of ops on the longest path into any pattern.

    Raises:
        RuleError: when a node is first looked at whose rules are beyond the limits of expansion.
    """

    def __init__(self, rules: Sequence[Rule], mirror: Mirror, choices: Choices | None = None) -> None:
        self.mirror = mirror
        self._choices = choices
        self._automaton = automaton(rules)
        self.depth = self._automaton.depth
        self._visits: dict[str, int] = {}
        self._matches: dict[str, int] = {}
        self._alone: dict[tuple[str, str], Trie] = {}

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, in precedence order."""
        return self._automaton.rules

    def roots_of(self, op: str) -> tuple[Rule, ...]:
        """The rules with a root of ``op``, in precedence order."""
        return tuple(self._automaton.by_op.get(op, ()))

    @property
    def stats(self) -> dict[str, Count]:
        """Attempts and matches by rule id; an attempt is a node with a root op of the rule."""
        counts = {rule.id: Count(matches=self._matches.get(rule.id, 0)) for rule in self.rules}
        for op, visits in self._visits.items():
            for rule in self._automaton.by_op.get(op, ()):
                counts[rule.id].attempts += visits
        return counts

    def matches(self, node: fx.Node) -> Iterator[Match]:
        """Matches with ``node`` as a root, by precedence of the rules and then of the expansions.

        A match of several roots is found from each of them.  Matches are found as they are asked for: stop
        iterating once the graph has been edited.
        """
        op = self.mirror.op(node)
        trie = self._automaton.trie(op)
        if trie is None:
            return
        self._visits[op] = self._visits.get(op, 0) + 1
        frame = Frame(self.mirror, trie.table)
        frame.registers[0] = Value(node, 0)
        for program in trie.run(frame):
            for complete in self._complete(program, frame):
                match = self._match(program, complete)
                if self._choices is not None and self._choices.passes_over(match, self.mirror):
                    continue
                self._matches[match.rule.id] = self._matches.get(match.rule.id, 0) + 1
                yield match

    def _complete(self, program: Program, frame: Frame) -> Iterator[Frame]:
        """Frames with all roots found for which the whole match is right."""
        for found in self._search(program.searches, frame):
            if all(check.condition.holds(found) for check in program.final):
                yield found

    def _search(self, searches: Sequence[Search], frame: Frame) -> Iterator[Frame]:
        if not searches:
            yield frame
            return
        search, *others = searches
        for node in self._candidates(search, frame):
            branch = frame.branch()
            branch.registers[search.root] = Value(node, search.output)
            if all(check.condition.holds(branch) for check in search.checks):
                yield from self._search(others, branch)

    def _candidates(self, search: Search, frame: Frame) -> Sequence[fx.Node]:
        """Nodes that may be the root, found by climbing from the shared capture with the fewest users."""
        mirror = self.mirror
        starts = [(climb, frame.get(climb.start)) for climb in search.climbs]
        usable = [(climb, start) for climb, start in starts if isinstance(start, Value)]
        if not usable:
            return ()
        climb, start = min(usable, key=lambda item: len(mirror.users(item[1])))
        level: list[Value] = [start]
        for op, output in climb.levels:
            users = dict.fromkeys(user for value in level for user in mirror.users(value))
            level = [Value(user, output) for user in users if mirror.op(user) == op]
        return sorted({value.node for value in level})

    def _match(self, program: Program, frame: Frame) -> Match:
        bindings: dict[str, Any] = {}
        for name, paths in program.bindings.items():
            found = (frame.get(path) for path in paths)
            bindings[name] = next((value for value in found if value is not MISSING), None)
        bindings.update(dict.fromkeys(program.absent))
        bindings.update(program.flags)
        roots = tuple(frame.node_value(path).node for path in program.roots)
        nodes: dict[fx.Node, bool] = {}
        for path, exclusive in program.ops:
            node = frame.node_value(path).node
            nodes[node] = nodes.get(node, False) or exclusive
        return Match(
            rule=program.expansion.rule,
            bindings=bindings,
            roots=roots,
            nodes=tuple(sorted(nodes)),
            shared=self._shared(nodes, roots),
            expansion=program.expansion.number,
        )

    def _shared(self, nodes: dict[fx.Node, bool], roots: tuple[fx.Node, ...]) -> tuple[fx.Node, ...]:
        """Matched interior nodes that something else keeps alive; their operands then stay alive too."""
        if len(nodes) == 1:
            return ()
        kept: set[fx.Node] = set()
        for node in sorted(nodes, reverse=True):
            if node not in roots and any(u not in nodes or u in kept for u in self.mirror.each_user(node)):
                kept.add(node)
        return tuple(sorted(kept))

    # ------------------------------------------------------------ near misses

    def why_not(self, node: fx.Node, rule: Rule, guards: Callable[[Match], str | None] | None = None) -> NearMiss:
        """How far ``rule`` gets at ``node``: of its expansions the one with the most conditions that hold.

        Args:
            guards: called with a match of the pattern; says which guard fails, or None.
        """
        op = self.mirror.op(node)
        anchored = any(root.op == op for root in rule.roots)
        trie = self._trie_of(op if anchored else rule.roots[0].op, rule)
        frame = Frame(self.mirror, trie.table)
        frame.registers[0] = Value(node, 0)
        if not anchored:
            root = rule.roots[0]
            return NearMiss(rule, node, 0, IsOp(0, root.op, None), root.span, frame)
        misses: list[NearMiss] = []
        for program in sorted(trie.programs, key=lambda program: program.order):
            miss = self._attempt(program, frame, node, guards)
            if miss.matched:
                return miss
            misses.append(miss)
        best = max(misses, key=lambda miss: miss.passed)
        if best.condition is None:
            return best
        # Of alternatives at one place each is asked for, not only the first.
        path = best.condition.path
        alike = [
            miss for miss in misses if miss.passed == best.passed and miss.condition and miss.condition.path == path
        ]
        return replace(best, others=tuple(miss.expected for miss in alike))

    def _trie_of(self, op: str, rule: Rule) -> Trie:
        """The trie of one rule; models ask again for each node of an op."""
        found = self._alone.get((op, rule.id))
        if found is None:
            found = self._alone[op, rule.id] = Trie(op, [rule])
        return found

    def _attempt(
        self, program: Program, frame: Frame, node: fx.Node, guards: Callable[[Match], str | None] | None
    ) -> NearMiss:
        rule = program.expansion.rule
        passed, failed = _first_failure(program.checks, frame)
        if failed is not None:
            return NearMiss(rule, node, passed, failed.condition, failed.span, frame)
        best = NearMiss(rule, node, passed, reason="no other root of the pattern was found")
        for found, count, failure in self._attempt_roots(program, program.searches, frame, passed):
            if failure is not None:
                miss = NearMiss(rule, node, count, failure.condition, failure.span, found)
            else:
                objection = guards(self._match(program, found)) if guards is not None else None
                miss = NearMiss(rule, node, count, guard=objection)
                if objection is None:
                    return miss
            if miss.passed > best.passed or best.reason is not None:
                best = miss
        return best

    def _attempt_roots(
        self, program: Program, searches: Sequence[Search], frame: Frame, passed: int
    ) -> Iterator[tuple[Frame, int, Check | None]]:
        if not searches:
            held, failed = _first_failure(program.final, frame)
            yield frame, passed + held, failed
            return
        search, *others = searches
        for node in self._candidates(search, frame):
            branch = frame.branch()
            branch.registers[search.root] = Value(node, search.output)
            held, failed = _first_failure(search.checks, branch)
            if failed is not None:
                yield branch, passed + held, failed
            else:
                yield from self._attempt_roots(program, others, branch, passed + held)


def _first_failure(checks: Sequence[Check], frame: Frame) -> tuple[int, Check | None]:
    for passed, check in enumerate(checks):
        if not check.condition.holds(frame):
            return passed, check
    return len(checks), None


__all__ = ["Count", "Match", "Matcher", "NearMiss", "PathTable"]
