"""PyTorch's ops as rules see them: arguments, defaults, outputs, and the rules that take them."""

from __future__ import annotations

from collections.abc import Sequence

from engine.dsl import operators
from engine.dsl.rule import Rule
from engine.dsl.ruleset import RuleSet
from engine.reference.entry import Entry

_COLUMNS = ("argument", "type", "default")


def op(name: str, ruleset: RuleSet | None = None) -> Entry | None:
    """An op by its name in rules, None if there is none.

    Args:
        ruleset: whose rules are listed.
    """
    operator = operators.find(name)
    if operator is None:
        return None
    rows = [
        (
            f"`{argument.name}`",
            f"`{argument.kind}{'?' if argument.optional and argument.kind != 'Any' else ''}`",
            "" if argument.default is ... else f"`{_default(argument.default)}`",
        )
        for argument in operator.arguments
    ]
    notes = [_rules(operator.name, ruleset)] if ruleset is not None else []
    returns = ", ".join(operator.returns) or "nothing"
    doc = f"Gives {returns}. Arguments that a pattern does not mention have their default; `..` stands for any."
    return Entry("op", operator.name, operator.schema, doc, _COLUMNS, tuple(rows), tuple(notes))


def _default(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case tuple() | list():
            return f"[{', '.join(map(_default, value))}]"
    return str(value).removeprefix("torch.")


def _rules(name: str, ruleset: RuleSet) -> str:
    taking: Sequence[Rule] = [rule for rule in ruleset.rules if any(root.op == name for root in rule.roots)]
    if not taking:
        return "No rule is rooted at it."
    names = dict.fromkeys((rule.kind, rule.id.partition("[")[0]) for rule in taking)
    return "Rules: " + ", ".join(f"`{name}` ({kind})" for kind, name in names) + "."


__all__ = ["op"]
