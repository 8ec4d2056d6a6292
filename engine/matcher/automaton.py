"""The automaton: all rules with one root op as a trie of conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.dsl.expansion import depth, expand
from engine.dsl.memo import Recent
from engine.dsl.rule import Rule
from engine.matcher.compiled_pattern import Program, compile_program
from engine.matcher.conditions import Condition, IsOp
from engine.matcher.paths import Frame, PathTable


@dataclass(slots=True, eq=False)
class TrieNode:
    """A state: the conditions on the way here hold.

    Op conditions on one path exclude each other, so they are a table from op to next state.
    """

    programs: list[Program] = field(default_factory=list)
    switches: dict[int, dict[str, list[tuple[IsOp, TrieNode]]]] = field(default_factory=dict)
    tests: dict[Condition, TrieNode] = field(default_factory=dict)

    def next(self, condition: Condition) -> TrieNode:
        """The state after a condition, made when missing."""
        if isinstance(condition, IsOp):
            cases = self.switches.setdefault(condition.path, {}).setdefault(condition.op, [])
            for known, state in cases:
                if known == condition:
                    return state
            state = TrieNode()
            cases.append((condition, state))
            return state
        return self.tests.setdefault(condition, TrieNode())


class Trie:
    """The rules that may match at nodes of one op."""

    def __init__(self, op: str, rules: Sequence[Rule]) -> None:
        self.table = PathTable()
        self.start = TrieNode()
        self.programs: list[Program] = []
        self.table.root(0)
        for rule in rules:
            for expansion in expand(rule):
                for anchor, root in enumerate(expansion.roots):
                    if root.op == op:
                        self._add(compile_program(expansion, anchor, self.table))

    def _add(self, program: Program) -> None:
        self.programs.append(program)
        state = self.start
        for check in program.checks:
            state = state.next(check.condition)
        state.programs.append(program)

    def run(self, frame: Frame) -> list[Program]:
        """Programs whose conditions on the anchor root hold, in precedence order."""
        found: list[Program] = []
        stack = [self.start]
        mirror = frame.mirror
        while stack:
            state = stack.pop()
            found += state.programs
            for path, cases in state.switches.items():
                value = frame.get(path)
                node = getattr(value, "node", None)  # only values have nodes; symbolic ints never get here
                if node is not None:
                    for condition, following in cases.get(mirror.op(node), ()):
                        if condition.output is None or condition.output == value.index:
                            stack.append(following)
            for test, following in state.tests.items():
                if test.holds(frame):
                    stack.append(following)
        if len(found) > 1:
            found.sort(key=lambda program: program.order)
        return found


class Automaton:
    """The tries of a rule set, compiled per root op when first needed.

    Attributes:
        rules: in precedence order.
        by_op: root op -> rules with such a root, in precedence order.
        depth: the number of ops on the longest path into any pattern.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self.by_op: dict[str, list[Rule]] = {}
        self.depth = 0
        self._tries: dict[str, Trie] = {}
        for rule in self.rules:
            for root in rule.roots:
                self.depth = max(self.depth, depth(root))
                rules_of_op = self.by_op.setdefault(root.op, [])
                if not rules_of_op or rules_of_op[-1] is not rule:
                    rules_of_op.append(rule)

    def trie(self, op: str) -> Trie | None:
        """The rules that may match at nodes of ``op``, None if there are none.

        Raises:
            RuleError: a rule is beyond the limits of expansion, or its roots share no tensor.
        """
        trie = self._tries.get(op)
        if trie is None and op in self.by_op:
            trie = self._tries[op] = Trie(op, self.by_op[op])
        return trie


automaton = Recent(Automaton)
