"""Names of a user's own: macros and named patterns that happen to be called like built-in ones stay apart from them.

In the user's files such a name gets a mark that nobody can write, so that both stand side by side in a rule set:
the built-in rules go on calling theirs, and what the language gains breaks no file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, replace
from typing import Any

from engine.dsl import tree

MARK = "\N{PRIME}"
"""What ends the name of a user's macro or pattern that a built-in one has as well."""


def apart(files: list[tree.File], macros: Collection[str], patterns: Collection[str]) -> list[tree.File]:
    """User files with their own macros and patterns marked, where built-in ones are called the same.

    Args:
        macros, patterns: names of the built-in ones, and of packages that come before, marked or not.
    """
    own_macros = _marked({macro.name for file in files for macro in file.macros}, set(macros))
    own_patterns = _marked({pattern.name for file in files for pattern in file.patterns}, set(patterns))
    if not own_macros and not own_patterns:
        return files
    marking = _Marking(own_macros, own_patterns)
    return [
        replace(
            file,
            rules=marking.of(file.rules),
            macros=marking.of(file.macros),
            patterns=marking.of(file.patterns),
        )
        for file in files
    ]


def _marked(own: Collection[str], taken: Collection[str]) -> dict[str, str]:
    """The names that are taken, each with as many marks as make it another one."""
    found = {}
    for name in own:
        if name in taken:
            found[name] = name + MARK
            while found[name] in taken:
                found[name] += MARK
    return found


class _Marking:
    def __init__(self, macros: Mapping[str, str], patterns: Mapping[str, str]) -> None:
        self.macros = macros
        self.patterns = patterns

    def of(self, item: Any) -> Any:
        """A tree with its names marked."""
        if isinstance(item, tuple):
            return tuple(map(self.of, item))
        if not isinstance(item, tree.Node):
            return item
        special = _SPECIAL.get(type(item))
        if special is not None:
            return special(self, item)
        return self._parts(item)

    def _parts(self, item: Any, **given: Any) -> Any:
        """A node with its parts marked, but for those that are given."""
        parts = {part.name: getattr(item, part.name) for part in fields(item) if part.name not in ("span", *given)}
        return replace(item, **given, **{name: self.of(value) for name, value in parts.items()})

    def _name(self, name: str) -> str:
        return self.macros.get(name, name)

    def _call(self, call: tree.Call) -> tree.Call:
        """Only a call reads the name of a macro, and `loop` the name that it is given first."""
        function, arguments = call.function, call.arguments
        if not isinstance(function, tree.Name):
            return self._parts(call)  # type: ignore[no-any-return]
        first = arguments[0] if arguments and function.name == "loop" else None
        marked = self.of(arguments)
        if isinstance(first, tree.Name):
            marked = (replace(first, name=self._name(first.name)), *marked[1:])
        return replace(call, function=replace(function, name=self._name(function.name)), arguments=marked)

    def _test(self, test: tree.Test) -> tree.Test:
        """A test line gives a graph by the name of a macro; a name that stands before it is an operand."""
        before: set[str] = set()
        bindings = []

        def graph(value: Any) -> Any:
            if isinstance(value, tree.Name) and value.name not in before:
                return replace(value, name=self._name(value.name))
            return value

        for binding in test.bindings:
            value = graph(binding.value)
            if isinstance(value, tree.ListOf):
                value = replace(value, items=tuple(map(graph, value.items)))
            bindings.append(replace(binding, value=self.of(value)))
            before.add(binding.name)
        return replace(test, bindings=tuple(bindings))

    def _macro(self, macro: tree.Macro) -> tree.Macro:
        return self._parts(macro, name=self._name(macro.name))  # type: ignore[no-any-return]

    def _pattern(self, item: Any) -> Any:
        return self._parts(item, name=self.patterns.get(item.name, item.name))


_SPECIAL: dict[type, Callable[[_Marking, Any], Any]] = {
    tree.Call: _Marking._call,
    tree.Test: _Marking._test,
    tree.Macro: _Marking._macro,
    tree.PatternItem: _Marking._pattern,
    tree.Named: _Marking._pattern,
}

__all__ = ["MARK", "apart"]
