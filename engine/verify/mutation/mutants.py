"""The mutants of a rule: copies with one literal, enum member or guard changed.

What a macro or another rule says is not changed, and neither are strings and the sizes and dtypes of a pattern, whose
change keeps a rule from its own lines, so that every line would notice it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine import tensorrt
from engine.dsl import tree
from engine.dsl.forms import parts, within
from engine.dsl.rule import ArgumentPattern, EnumToken, Equals, Layer, ListMatch, OneOf, OpMatch, Rule
from engine.errors import Span

_WEAKER = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change, in every member of a family that it concerns.

    Attributes:
        what: the change, in words.
        rules: pairs of a member and what becomes of it.
        left: it changes what the pattern means, not only what the rule does.
        guard: it is a guard that is left out.
    """

    what: str
    span: Span
    rules: tuple[tuple[Rule, Rule], ...]
    left: bool = False
    guard: bool = False


def mutants(members: Sequence[Rule], layers: Mapping[str, Layer]) -> Iterator[Mutant]:
    """The mutants of a rule, in the order of its text.

    Args:
        members: all members of a family, or one rule.
        layers: by name; they say which enum a member is of.
    """
    found = [*_of_patterns(members), *_of_bodies(members, layers), *_of_families(members, layers)]
    yield from sorted(found, key=lambda mutant: (mutant.span.line, mutant.span.column))


# ------------------------------------------------------------------------------------------ patterns


def _of_patterns(members: Sequence[Rule]) -> Iterator[Mutant]:
    changed: dict[tuple[Span, str], list[tuple[Rule, Rule]]] = {}
    for rule in members:
        given = [value for value in rule.family.values() if not isinstance(value, EnumToken)]
        for root in rule.roots:
            for part in parts(root):
                if isinstance(part, Equals) and part.value not in given:
                    for value in _other(part.value):
                        roots = tuple(_replaced(other, part, value) for other in rule.roots)
                        what = f"`{_shown(part.value)}` in the pattern becomes `{_shown(value)}`"
                        pair = rule, _copy(rule, roots=roots)
                        changed.setdefault((part.span, what), []).append(pair)
    for (span, what), pairs in changed.items():
        yield Mutant(what, span, tuple(pairs), left=True)


def _replaced(pattern: ArgumentPattern, old: Equals, value: object) -> Any:
    """A pattern with another literal in one place."""
    if pattern is old:
        return dataclasses.replace(old, value=value)
    if not within(pattern):
        return pattern
    if isinstance(pattern, OpMatch):
        arguments = tuple((position, _replaced(argument, old, value)) for position, argument in pattern.arguments)
        return dataclasses.replace(pattern, arguments=arguments)
    if isinstance(pattern, ListMatch):
        before, after = (tuple(_replaced(item, old, value) for item in x) for x in (pattern.before, pattern.after))
        return dataclasses.replace(pattern, before=before, after=after)
    assert isinstance(pattern, OneOf)
    return dataclasses.replace(pattern, patterns=tuple(_replaced(item, old, value) for item in pattern.patterns))


# ------------------------------------------------------------------------------------------ guards, lets, right sides


def _of_bodies(members: Sequence[Rule], layers: Mapping[str, Layer]) -> Iterator[Mutant]:
    rule = members[0]
    enums = _Enums(layers)
    for number, step in enumerate(rule.steps):
        if isinstance(step, tree.Guard) and step.target is None:
            steps = (*rule.steps[:number], *rule.steps[number + 1 :])
            what = f"the guard `{step.text}` is left out"
            yield Mutant(what, step.span, _each(members, steps=steps), guard=True)
        for what, span, value in _changes(step.value, enums):
            changed = dataclasses.replace(step, value=value)
            steps = (*rule.steps[:number], changed, *rule.steps[number + 1 :])
            yield Mutant(what, span, _each(members, steps=steps))
    for what, span, value in _changes(rule.emit, enums):
        yield Mutant(what, span, _each(members, emit=value))


def _each(members: Sequence[Rule], **changes: Any) -> tuple[tuple[Rule, Rule], ...]:
    return tuple((member, _copy(member, **changes)) for member in members)


def _copy(rule: Rule, **changes: Any) -> Rule:
    """A rule with other parts; one that was read from the cache is decoded."""
    return Rule(**{field.name: getattr(rule, field.name) for field in dataclasses.fields(Rule)} | changes)


def _changes(value: tree.Expr, enums: _Enums) -> Iterator[tuple[str, Span, Any]]:
    """Each change of an expression: in words, where, and the expression with it."""
    for node in tree.walk(value):
        if isinstance(node, tree.Literal):
            for other in _other(node.value):
                what = f"`{_shown(node.value)}` becomes `{_shown(other)}`"
                yield what, node.span, _exchanged(value, node, dataclasses.replace(node, value=other))
        elif isinstance(node, tree.Binary) and node.operator in _WEAKER:
            operator = _WEAKER[node.operator]
            what = f"`{node.operator}` becomes `{operator}`"
            yield what, node.span, _exchanged(value, node, dataclasses.replace(node, operator=operator))
        elif isinstance(node, tree.Call):
            for member, other in enums.of_call(node):
                what = f"`{member.name}` becomes `{other}`"
                yield what, member.span, _exchanged(value, member, dataclasses.replace(member, name=other))


def _exchanged(item: Any, old: tree.Node, new: tree.Node) -> Any:
    """A tree with one node exchanged for another."""
    if item is old:
        return new
    if isinstance(item, tuple):
        return tuple(_exchanged(part, old, new) for part in item)
    if not isinstance(item, tree.Node):
        return item
    changed = {}
    for field in dataclasses.fields(item):
        part = getattr(item, field.name)
        other = _exchanged(part, old, new)
        if other is not part and other != part:
            changed[field.name] = other
    return dataclasses.replace(item, **changed) if changed else item


def _other(value: object) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
    elif isinstance(value, float) and value == value and abs(value) != float("inf"):
        yield value + 0.5


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# ------------------------------------------------------------------------------------------ families


def _of_families(members: Sequence[Rule], layers: Mapping[str, Layer]) -> Iterator[Mutant]:
    """Another value of a family variable in one member, where the right side reads it; its pattern stays."""
    enums = _Enums(layers)
    for rule in members:
        body = [step.value for step in rule.steps] + [rule.emit]
        read = {node.name for node in tree.walk(tuple(body)) if isinstance(node, tree.Upper)}
        for name, value in rule.family.items():
            others: list[Any] = []
            if name in read and isinstance(value, EnumToken):
                others = [EnumToken(other) for other in enums.of_variable(name, value.name, body)]
            elif name in read:
                others = list(_other(value))
            for other in others:
                what = f"`{name}` of {rule.id} becomes `{_shown(other)}` instead of `{_shown(value)}`"
                yield Mutant(what, rule.span, ((rule, _copy(rule, family={**rule.family, name: other})),))


class _Enums:
    """Which enum a word in a layer call is a member of, and another member of it."""

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self.layers = layers

    def of_call(self, call: tree.Call) -> Iterator[tuple[tree.Upper, str]]:
        """The members that a call names, each with another one."""
        for word, enum in self._named(call):
            other = self._after(enum, word.name)
            if other is not None:
                yield word, other

    def of_variable(self, variable: str, member: str, body: Sequence[tree.Expr]) -> Iterator[str]:
        """Another member for a family variable that a call is given."""
        enums = {
            enum
            for call in tree.walk(tuple(body))
            if isinstance(call, tree.Call)
            for word, enum in self._named(call)
            if word.name == variable
        }
        for enum in sorted(enums):
            other = self._after(enum, member)
            if other is not None:
                yield other

    def _named(self, call: tree.Call) -> Iterator[tuple[tree.Upper, str]]:
        function = call.function
        layer = self.layers.get(function.name) if isinstance(function, tree.Qualified) else None
        if layer is None:
            return
        for argument in call.arguments:
            if isinstance(argument, tree.Keyword) and argument.name in layer.by_name:
                type_ = layer.by_name[argument.name].type
                for word in tree.walk(argument.value):
                    if isinstance(word, tree.Upper) and type_ is not None and len(type_.names) == 1:
                        yield word, type_.names[0]

    @staticmethod
    def _after(enum: str, member: str) -> str | None:
        """The member that comes after one; None where that is none of the enum, or the only one."""
        names = list(getattr(getattr(tensorrt.load(), enum, None), "__members__", ()))
        if member not in names or len(names) < 2:
            return None
        return str(names[(names.index(member) + 1) % len(names)])


def by_family(chosen: Sequence[Rule], base: Callable[[Rule], str]) -> list[list[Rule]]:
    """Rules with the members of a family together, in their order."""
    found: dict[tuple[str, str], list[Rule]] = {}
    for rule in chosen:
        found.setdefault((rule.kind, base(rule)), []).append(rule)
    return list(found.values())


__all__ = ["Mutant", "by_family", "mutants"]
