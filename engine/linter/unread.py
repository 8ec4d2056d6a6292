"""Names that are bound and that nothing reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from engine.dsl import tree
from engine.linter.finding import Finding
from engine.linter.subject import Subject, bound_by, name_of, names_in, read_later


def unread(subject: Subject) -> Iterator[Finding]:
    """Captures, dims, values, loop variables and parameters that are not read."""
    passed = _passed(subject)
    for file in subject.files:
        for macro in file.macros:
            yield from _loops(macro.name, macro.body)
            read = names_in(macro.body)
            for parameter in macro.parameters:
                # A macro that is given to `loop` or a test line has the parameters that those say.
                if parameter.name not in read and macro.name not in passed and not parameter.name.startswith("_"):
                    yield Finding("R105", parameter.span, f"the parameter `{parameter.name}` is not read", macro.name)
        for pattern in file.patterns:
            yield from _captured(pattern.name, pattern.body, {one.name for one in pattern.parameters}, dims_only=True)
    for file, item, _ in subject.items():
        name = name_of(file, item)
        read = names_in((item.steps, item.emit, item.decreases))
        # Only what a test line names can be given a value there.
        read |= {binding.name for test in item.tests for binding in test.bindings}
        read |= names_in(item.tests)
        yield from _captured(name, item.match, read)
        yield from _steps(name, item)
        yield from _loops(name, (item.steps, item.emit))


def _passed(subject: Subject) -> set[str]:
    """Names of macros that stand somewhere else than before their arguments."""
    passed = set()
    for file in subject.files:
        for node in tree.walk((file.rules, file.macros)):
            if isinstance(node, tree.Call):
                passed |= {item.name for item in node.arguments if isinstance(item, tree.Name)}
            elif isinstance(node, tree.Binding) and isinstance(node.value, tree.Name):
                passed.add(node.value.name)
    return passed


def _captured(name: str, pattern: tree.Pattern, read: set[str], dims_only: bool = False) -> Iterator[Finding]:
    """Names that a pattern binds once; twice the same name is a condition."""
    places: dict[str, tuple[tree.Node, bool]] = {}
    count: Counter[str] = Counter()
    for node in tree.walk(pattern):
        found: list[tuple[str, bool]] = []
        if isinstance(node, tree.Capture) and not dims_only:
            found.append((node.name, node.type is None))
        elif isinstance(node, tree.Rest) and node.name is not None and not dims_only:
            found.append((node.name, True))
        elif isinstance(node, tree.Dim) and node.name is not None:
            found.append((node.name, node.range is None))
        elif isinstance(node, tree.Upper):
            found.append((node.name, False))
        elif isinstance(node, tree.OpPattern):
            found += [(output, not dims_only) for output in node.outputs or () if output is not None]
        for bound, loose in found:
            count[bound] += 1
            places.setdefault(bound, (node, loose))
    for bound, (node, loose) in places.items():
        # A capture with a type is a condition, which needs a name.
        if loose and count[bound] == 1 and bound not in read:
            kind = "dim" if isinstance(node, tree.Dim) else "output" if isinstance(node, tree.OpPattern) else "operand"
            instead = ".." if isinstance(node, tree.Rest) else "_"
            yield Finding("R105", node.span, f"the {kind} `{bound}` is not read", name, f"write `{instead}`")


def _steps(name: str, item: tree.RuleItem) -> Iterator[Finding]:
    for step, target, later in read_later(item.steps, (item.emit, item.decreases)):
        bound = list(bound_by(target))
        missing = [one for one in bound if one.name not in later]
        if isinstance(step, tree.Let) and len(missing) == len(bound):
            names = ", ".join(str(one.name) for one in bound)
            if bound:
                yield Finding("R105", step.span, f"`let {names}` is not read", name, "remove it")
        else:
            for one in missing:
                yield Finding("R105", one.span, f"`{one.name}` is not read", name, "write `_`")


def _loops(name: str, value: Any) -> Iterator[Finding]:
    for node in tree.walk(value):
        if isinstance(node, tree.Comprehension):
            read = names_in((node.value, node.test))
            for target in bound_by(node.target):
                if target.name not in read:
                    yield Finding("R105", target.span, f"`{target.name}` is not read", name, "write `_`")


__all__ = ["unread"]
