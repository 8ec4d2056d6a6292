"""Since which TensorRT an op can be in an engine: that of the newest layer that the oldest way to it needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from engine.dsl.checks import needs
from engine.dsl.checks.facts import emitted_ops
from engine.dsl.rule import Rule
from engine.dsl.ruleset import RuleSet

# The oldest that the package asks for.
OLDEST = (10, 9)
_Version = tuple[int, int]


class Since:
    """Versions by op, of a rule set together with its inactive rules."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._by_op: dict[str, list[Rule]] = {}
        for rule in (*rules.rules, *(rule for rule, _ in rules.inactive)):
            for op in () if needs.is_optional(rule.needs) else dict.fromkeys(root.op for root in rule.roots):
                self._by_op.setdefault(op, []).append(rule)
        self._known: dict[str, _Version] = {}

    def of(self, op: str) -> _Version:
        """The earliest version with which some rule takes an op, and rules take what it is lowered to."""
        if op not in self._known:
            # Where rules go round in a circle, what is on the way asks for no more than the rest of it.
            self._known[op] = OLDEST
            self._known[op] = min((self._of_rule(rule) for rule in self._by_op.get(op, ())), default=OLDEST)
        return self._known[op]

    def _of_rule(self, rule: Rule) -> _Version:
        if rule.kind == "convert":
            since = [self._rules.layers[name].since for name in layers(rule, self._rules) if name in self._rules.layers]
        else:
            since = [self.of(op) for op in dict.fromkeys(emitted_ops(rule, self._rules.macros))]
        return max((OLDEST, *(version for version in since if version is not None)))


def layers(rule: Rule, rules: RuleSet) -> set[str]:
    """The layers that the text of a rule names; macros are followed."""
    found: set[str] = set()
    pending: list[object] = [rule.emit, *rule.steps]
    expanded: set[str] = set()
    while pending:
        for node in walk(pending.pop()):
            name = getattr(node, "name", None)
            if not isinstance(name, str):
                continue
            if name.startswith("trt."):
                found.add(name)
            elif name in rules.macros and name not in expanded:
                expanded.add(name)
                pending.append(rules.macros[name])
    return found


def walk(item: object) -> Iterator[object]:
    """A node of the syntax tree and all nodes under it."""
    if isinstance(item, tuple | list):
        for part in item:
            yield from walk(part)
    elif dataclasses.is_dataclass(item) and not isinstance(item, type):
        yield item
        for part in dataclasses.fields(item):
            yield from walk(getattr(item, part.name))


__all__ = ["OLDEST", "Since", "layers", "walk"]
