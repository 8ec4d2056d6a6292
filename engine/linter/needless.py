"""What changes nothing: guards that always hold, precedence that is so anyway, `..` for no argument, equal sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.dsl import operators, tree
from engine.dsl.checks.constraints import conjuncts, ways_of
from engine.dsl.rule import OpName, Rule
from engine.dsl.vocabulary import constants
from engine.linter.finding import Finding
from engine.linter.known import Known
from engine.linter.subject import Subject, name_of


def needless(subject: Subject) -> Iterator[Finding]:
    """What can go without a change."""
    by_name: dict[tuple[str, str], list[Rule]] = {}
    for rule in (*subject.ruleset.rules, *(rule for rule, _ in subject.ruleset.inactive)):
        by_name.setdefault((rule.kind, rule.id.partition("[")[0]), []).append(rule)
    for file, item, rules in subject.items():
        name = name_of(file, item)
        yield from _guards(name, item, Known.of(rules))
        yield from _over(name, item, rules, by_name)
        yield from _rests(name, item, rules)
        yield from _expressions(name, (item.steps, item.emit))
        for step in item.steps:
            if not isinstance(step, tree.Let) or step.target.name is None or not isinstance(step.value, tree.Name):
                continue
            if step.value.name not in constants():
                message = f"`{step.target.name}` is another name of `{step.value.name}`"
                yield Finding("R107", step.span, message, name, f"use `{step.value.name}`")
    for file in subject.files:
        for macro in file.macros:
            yield from _expressions(macro.name, macro.body)


def _guards(name: str, item: tree.RuleItem, known: Known) -> Iterator[Finding]:
    for step in item.steps:
        if isinstance(step, tree.Guard) and step.target is None:
            for part in conjuncts(step.value):
                if known.truth(part) is True:
                    yield Finding("R107", part.span, "the pattern makes this guard true", name, "remove it")


def _over(
    name: str, item: tree.RuleItem, rules: Sequence[Rule], by_name: dict[tuple[str, str], list[Rule]]
) -> Iterator[Finding]:
    for written in item.over:
        full = written if "." in written else f"{name.partition('.')[0]}.{written}"
        losers = by_name.get((item.kind, full), [])
        pairs = [(rule, loser) for rule in rules for loser in losers if rule is not loser]
        if not losers:
            message = f"`over {written}` names no `{item.kind}` rule, and kinds have an order of their own"
        elif all(not _meet(rule, loser) for rule, loser in pairs):
            message = f"`over {written}`: no node matches both rules"
        elif all(_decided(rule, loser) for rule, loser in pairs):
            message = (
                f"`over {written}`: this rule comes first anyway, because it tests all that the other does and more"
            )
        else:
            continue
        related = (losers[0].span, "the other rule") if losers else None
        yield Finding("R107", item.span, message, name, "remove it", related)


def _meet(rule: Rule, loser: Rule) -> bool:
    """Whether a node may match both, as far as their tests say."""
    if not {root.op for root in rule.roots} & {root.op for root in loser.roots}:
        return False
    return any(not a.excludes(b) for a in ways_of(rule) for b in ways_of(loser))


def _decided(rule: Rule, loser: Rule) -> bool:
    """Whether the order of two rules is decided without being said, or need not be."""
    if not _meet(rule, loser) or rule.level > loser.level:
        return True
    pairs = [(a, b) for a in ways_of(rule) for b in ways_of(loser) if not a.excludes(b)]
    first = all(any(a.implies(b) for b in ways_of(loser)) for a, _ in pairs)
    second = all(any(b.implies(a) for a in ways_of(rule)) for _, b in pairs)
    return first and not second


def _rests(name: str, item: tree.RuleItem, rules: Sequence[Rule]) -> Iterator[Finding]:
    for node in tree.walk(item.match):
        if not isinstance(node, tree.OpPattern):
            continue
        rest = next((part for part in node.arguments if isinstance(part, tree.Rest) and part.name is None), None)
        if rest is None:
            continue
        names = [node.op]
        if node.op[:1].isupper():
            names = [value.name for rule in rules if isinstance(value := rule.family.get(node.op), OpName)]
        found = [operators.find(op) for op in names]
        if found and all(op is not None and len(op.arguments) < len(node.arguments) for op in found):
            yield Finding("R107", rest.span, "`..` stands for no argument", name, "remove it")


def _expressions(name: str, value: object) -> Iterator[Finding]:
    for node in tree.walk(value):
        match node:
            case tree.Conditional() if tree.same(node.then, node.otherwise):
                yield Finding("R107", node.span, "both sides of this `if` are the same", name, "write one of them")
            case tree.Unary(operator="not", value=tree.Unary(operator="not")):
                yield Finding("R107", node.span, "`not not` says nothing", name, "remove both")
            case tree.Binary(operator="==" | "!=", right=tree.Literal(value=bool())):
                pass  # a value may be none or a number, and then this is no truth
            case tree.Conditional(then=tree.Literal(value=True), otherwise=tree.Literal(value=False)):
                yield Finding("R107", node.span, "`true if c else false` is `c`", name, "write the test")


__all__ = ["needless"]
