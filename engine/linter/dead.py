"""Macros, named patterns and host functions that nothing uses, and sides of an ``if`` that are never taken."""

from __future__ import annotations

from collections.abc import Iterator

from engine.dsl import tree
from engine.linter.finding import Finding
from engine.linter.known import Known
from engine.linter.subject import Subject, name_of


def dead(subject: Subject) -> Iterator[Finding]:
    """What can go without a change."""
    used = _used(subject)
    for file in subject.files:
        for macro in file.macros:
            if macro.name not in used:
                yield Finding("R101", macro.span, "nothing uses this macro", macro.name)
        for pattern in file.patterns:
            if pattern.name not in used:
                yield Finding("R101", pattern.span, "nothing uses this named pattern", pattern.name)
        for extern in file.externs:
            if extern.name not in used:
                yield Finding("R101", extern.span, "no rule calls this host function", extern.name)
    for file, item, rules in subject.items():
        known = Known.of(rules)
        for node in tree.walk((item.steps, item.emit)):
            if isinstance(node, tree.Conditional) and (truth := known.truth(node.test)) is not None:
                side = node.otherwise if truth else node.then
                message = f"this side of the `if` is never taken: its test is always {str(truth).lower()}"
                yield Finding("R101", side.span, message, name_of(file, item))


def _used(subject: Subject) -> set[str]:
    """Names that rules reach, through macros and patterns, and all that other files mention."""
    bodies: dict[str, object] = {}
    waiting: list[object] = []
    for file in subject.files:
        bodies |= {macro.name: macro.body for macro in file.macros}
        bodies |= {pattern.name: pattern.body for pattern in file.patterns}
        waiting += file.rules
        waiting += file.layers
    used = set(subject.mentioned & bodies.keys())
    waiting += [bodies[name] for name in used]
    while waiting:
        for node in tree.walk(waiting.pop()):
            name = node.name if isinstance(node, tree.Name | tree.Named | tree.Qualified) else None
            if name is not None and name not in used:
                used.add(name)
                if name in bodies:
                    waiting.append(bodies[name])
    return used


__all__ = ["dead"]
