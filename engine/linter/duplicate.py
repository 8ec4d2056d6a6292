"""What is said twice: rules, macros, guards, values and test lines that are the same but for their names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from engine.dsl import tree
from engine.errors import Span
from engine.linter.finding import Finding
from engine.linter.subject import Subject, bound_by, name_of


def duplicate(subject: Subject) -> Iterator[Finding]:
    """What there is twice."""
    yield from _rules(subject)
    yield from _macros(subject)
    for file, item, _ in subject.items():
        name = name_of(file, item)
        yield from _twice(name, item.tests, "this line stands here twice")
        guards = [step for step in item.steps if isinstance(step, tree.Guard)]
        yield from _twice(name, guards, "this guard stands here twice")
        lets = [step for step in item.steps if isinstance(step, tree.Let) and _worth(step.value)]
        for number, let in enumerate(lets):
            for other in lets[:number]:
                if tree.same(let.value, other.value):
                    first = ", ".join(str(target.name) for target in bound_by(other.target))
                    yield Finding("R103", let.span, f"`{first}` has this value already", name, None, _at(other))
                    break


def _twice(name: str, nodes: Sequence[tree.Node], message: str) -> Iterator[Finding]:
    for number, node in enumerate(nodes):
        for other in nodes[:number]:
            if _said(node) == _said(other):
                yield Finding("R103", node.span, message, name, None, _at(other))
                break


def _at(node: tree.Node) -> tuple[Span, str]:
    return node.span, "the first one"


def _said(node: tree.Node) -> object:
    return _text(_without_text(node), {})


def _without_text(node: tree.Node) -> tree.Node:
    """A guard without how it is written."""
    return tree.Guard(node.span, node.value, node.target) if isinstance(node, tree.Guard) else node


def _worth(value: tree.Expr) -> bool:
    """Whether a value is worth a name of its own: it computes something."""
    return any(isinstance(node, tree.Call | tree.Binary | tree.Comprehension) for node in tree.walk(value))


def _rules(subject: Subject) -> Iterator[Finding]:
    """Rules that match and give the same; those of one op are compared when rules are loaded."""
    seen: dict[object, tree.RuleItem] = {}
    for file, item, _ in subject.items():
        if item.family is not None:
            continue
        bound = _names_of(item.match)
        steps = [_without_text(step) for step in item.steps]
        key = (item.kind, _text((item.match, tuple(steps), item.emit, item.needs), bound))
        first = seen.setdefault(key, item)
        if first is not item:
            message = f"`{first.name}` matches and gives the same"
            yield Finding("R103", item.span, message, name_of(file, item), None, (first.span, "the other rule"))


def _macros(subject: Subject) -> Iterator[Finding]:
    seen: dict[object, list[tree.Macro]] = defaultdict(list)
    own = {macro.span for file in subject.files for macro in file.macros}
    for macro in subject.ruleset.macros.values():
        if macro.span not in own:
            seen[_of_macro(macro)].append(macro)
    for file in subject.files:
        for macro in file.macros:
            if not _worth(macro.body):
                continue
            same = seen[_of_macro(macro)]
            if same and not any(_same_place(macro, other) for other in same):
                message = f"`{same[0].name}` is the same macro"
                yield Finding("R103", macro.span, message, macro.name, f"use `{same[0].name}`", (same[0].span, "it"))
            same.append(macro)


def _same_place(a: tree.Macro, b: tree.Macro) -> bool:
    return a.name == b.name and (a.span.line, a.span.column) == (b.span.line, b.span.column)


def _of_macro(macro: tree.Macro) -> object:
    names = {parameter.name: f"<{number}>" for number, parameter in enumerate(macro.parameters)}
    kinds = tuple((parameter.type, parameter.default) for parameter in macro.parameters)
    return len(macro.parameters), _text(kinds, names), _text(macro.body, names)


def _names_of(pattern: tree.Pattern) -> dict[str, str]:
    """The names that a pattern binds, numbered in order."""
    names: dict[str, str] = {}
    for node in tree.walk(pattern):
        found = []
        if isinstance(node, tree.Capture | tree.Rest | tree.Dim | tree.Alternative) and node.name is not None:
            found.append(node.name)
        if isinstance(node, tree.OpPattern):
            found += [name for name in node.outputs or () if name is not None]
        for name in found:
            names.setdefault(name, f"<{len(names)}>")
    return names


_BINDING = (
    tree.Name, tree.Upper, tree.Capture, tree.Rest, tree.Dim, tree.Alternative, tree.Target, tree.OpPattern,
)  # fmt: skip


def _text(node: object, names: Mapping[str, str]) -> str:
    """A tree as text, without places and with other names."""
    if isinstance(node, tree.Node):
        parts = []
        for name in node.__dataclass_fields__:
            value = getattr(node, name)
            if name == "name" and isinstance(node, _BINDING):
                value = names.get(value, value)
            elif name == "outputs" and isinstance(node, tree.OpPattern) and value is not None:
                value = tuple(names.get(output, output) for output in value)
            if name != "span":
                parts.append(_text(value, names))
        return f"{type(node).__name__}({', '.join(parts)})"
    if isinstance(node, tuple):
        return f"({', '.join(_text(item, names) for item in node)})"
    return f"{type(node).__name__} {node!r}"


__all__ = ["duplicate"]
