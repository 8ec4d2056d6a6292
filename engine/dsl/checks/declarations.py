"""Checking macros, host functions and layers, before the rules that use them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from engine.dsl import tree
from engine.dsl.bindings import bindings_for
from engine.dsl.checked import Checked, Joined
from engine.dsl.checks import sorts
from engine.dsl.checks.definitions import Definitions, Effects
from engine.dsl.checks.expression_checker import ExpressionChecker
from engine.dsl.checks.layers import LayerTable
from engine.dsl.checks.patterns.named_patterns import NamedPatterns
from engine.dsl.diagnostics import Problems
from engine.dsl.rule import Layer
from engine.dsl.vocabulary import SIGNATURES, SORTS, constants, dtype_classes, dtypes, nearest, suggestion
from engine.tensorrt import Capabilities


def define(
    files: Sequence[tree.File],
    capabilities: Capabilities | None,
    hosts: Mapping[str, Callable[..., Any]],
    problems: Problems,
    base: Checked | None = None,
) -> Definitions:
    """Collect and check everything that rules of these files may call.

    Args:
        hosts: registered host functions by full name.
        base: built-in rules that were checked before, whose macros, patterns and layers there are as well.
    """
    return _Declarations(files, capabilities, hosts, problems, base).definitions


class _Declarations:
    def __init__(
        self,
        files: Sequence[tree.File],
        capabilities: Capabilities | None,
        hosts: Mapping[str, Callable[..., Any]],
        problems: Problems,
        base: Checked | None,
    ) -> None:
        self.hosts = hosts
        self.problems = problems
        given = base or Checked((), (), {}, {}, {}, ())
        macros = self._unique("macro", ((m.name, m) for file in files for m in file.macros), given.macros)
        externs = self._unique("host function", ((e.name, e) for file in files for e in file.externs), given.externs)
        declared = [layer for file in files for layer in file.layers]
        layers = LayerTable(declared, capabilities, bindings_for(capabilities), problems, base)
        patterns = self._unique("pattern", ((p.name, p) for file in files for p in file.patterns), given.patterns)
        self.definitions = Definitions(
            Joined(given.macros, macros),
            Joined(given.externs, externs),
            layers,
            NamedPatterns(patterns, problems, given.patterns),
            self._effects_of,
        )
        for extern in externs.values():
            self._check_extern(extern)
        self._check_macros(macros)
        if declared:
            self._check_layers()

    def _effects_of(self, macro: tree.Macro) -> Effects:
        """What a macro calls."""
        checker = ExpressionChecker(self.definitions, self.problems)
        checker.sort(macro.body, {parameter.name: None for parameter in macro.parameters})
        return checker.effects

    def _unique(self, what: str, items: Iterator[tuple[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, item in items:
            if name in found or name in given:
                first = found[name] if name in found else given[name]
                self.problems.report(
                    f"{what} `{name}` is defined twice", item.span, "rename one", (first.span, "the other definition")
                )
            else:
                found[name] = item
        return found

    def _check_extern(self, extern: tree.Extern) -> None:
        report = self.problems.report
        if not extern.name.startswith("host."):
            report(f"`{extern.name}` is not the name of a host function", extern.span, "they are called `host.name`")
            return
        for parameter in extern.parameters:
            if parameter.type is not None:
                self._check_value_type(parameter.type)
        self._check_value_type(extern.result)
        function = self.hosts.get(extern.name)
        short = extern.name.removeprefix("host.")
        if function is None:
            near = nearest(extern.name, self.hosts)
            report(
                f"`{extern.name}` is not registered",
                extern.span,
                f"did you mean `{near}`?"
                if near
                else f'decorate its Python function with `@engine.rules.host("{short}")`',
            )
            return
        declared = [parameter.name for parameter in extern.parameters]
        actual = list(inspect.signature(function).parameters)
        if declared != actual:
            report(
                f"`{extern.name}` is declared with ({', '.join(declared)})",
                extern.span,
                f"the registered Python function takes ({', '.join(actual)})",
            )
            return
        for parameter, python in zip(extern.parameters, inspect.signature(function).parameters.values(), strict=True):
            if not _agrees(parameter.type, python.annotation):
                report(
                    f"`{parameter.name}` of `{extern.name}` is declared {sorts.show(parameter.type)}",  # type: ignore[arg-type]
                    parameter.span,
                    f"the registered Python function takes {_annotation(python.annotation)}",
                )

    def _check_value_type(self, kind: tree.Type) -> None:
        for part in (*((kind.element,) if kind.element else ()), *(kind.items or ())):
            self._check_value_type(part)
        known = SORTS | set(dtypes()) | set(dtype_classes())
        for name in kind.names:
            if name not in known:
                self.problems.report(f"unknown type `{name}`", kind.span, suggestion(name, known))

    def _check_macros(self, macros: Mapping[str, tree.Macro]) -> None:
        for macro in macros.values():
            if macro.name in SIGNATURES:
                self.problems.report(f"`{macro.name}` is a builtin function", macro.span, "give the macro another name")
            checker = ExpressionChecker(self.definitions, self.problems)
            scope: dict[str, str | None] = {}
            for parameter in macro.parameters:
                if parameter.default is not None:
                    checker.sort(parameter.default, {})
                if parameter.name in scope:
                    self.problems.report(f"`{macro.name}` has two parameters `{parameter.name}`", parameter.span)
                if parameter.name in constants():
                    self.problems.report(f"`{parameter.name}` is a word of the language", parameter.span)
                scope[parameter.name] = None
            checker.sort(macro.body, scope)
            self.definitions.effects[macro.name] = checker.effects
        self._check_macro_cycles(macros)

    def _check_macro_cycles(self, macros: Mapping[str, tree.Macro]) -> None:
        done: set[str] = set()
        effects = self.definitions.effects
        for start in macros:
            path: dict[str, Iterator[str]] = {}  # macros on the way here, each with those it has yet to follow
            following: str | None = start
            while following is not None or path:
                if following is None:
                    finished, _ = path.popitem()
                    done.add(finished)
                elif following in path:
                    names = [*path]
                    cycle = [*names[names.index(following) :], following]
                    macro = self.definitions.macros[min(cycle)]
                    self.problems.report(
                        f"macro `{macro.name}` calls itself: {' > '.join(_rotated(cycle))}",
                        macro.span,
                        "macros are expanded in place and cannot recur; use a comprehension or a host function",
                    )
                elif following not in done and following in effects:
                    path[following] = iter(effects[following].macros)
                following = next(path[next(reversed(path))], None) if path else None

    def _check_layers(self) -> None:
        for layer in self.definitions.layers.items.values():
            checker = ExpressionChecker(self.definitions, self.problems)
            scope: dict[str, str | None] = {}
            for parameter in layer.parameters:
                if parameter.default is not None:
                    sort = checker.sort(parameter.default, scope, parameter.type)
                    if parameter.type is not None and not sorts.fits_type(sort, parameter.type):
                        self.problems.report(
                            f"the default of `{parameter.name}` is {sorts.describe(sort)}, not "  # type: ignore[arg-type]
                            f"{sorts.show(parameter.type)}",
                            parameter.default.span,
                        )
                scope[parameter.name] = None
            for argument in layer.via.arguments:
                checker.sort(argument.value if isinstance(argument, tree.Keyword) else argument, scope)
            for given in layer.gives:
                for expr in given or ():
                    checker.sort(expr, scope)
            for clause in (layer.unless, layer.accumulates):
                if clause is not None:
                    checker.sort(clause, scope)
            if layer.apart is not None:
                checker.sort(layer.apart.condition, scope)
                self._check_apart(layer, layer.apart)
            reached = self.definitions.closure(checker.effects)
            for name, span in (reached.ops | reached.layers).items():
                self.problems.report(f"a layer declaration computes sizes and dtypes, {name} makes a tensor", span)

    def _check_apart(self, layer: Layer, apart: tree.Apart) -> None:
        checker = ExpressionChecker(self.definitions, self.problems)
        sort = checker.sort(apart.instead, {apart.name: "tensor"})
        if sort not in (None, "tensor"):
            self.problems.report(f"an operand is a tensor, but this is {sorts.describe(sort)}", apart.instead.span)
        reached = self.definitions.closure(checker.effects)
        for name, span in (reached.ops | reached.layers).items():
            if name != layer.name:
                self.problems.report(f"`apart` of {layer.name} may call that layer and functions, not {name}", span)
        layers = self.definitions.layers
        for made in apart.layers:
            found = layers.items.get(made.layer)
            if found is None:
                hint = suggestion(made.layer, layers.items)
                self.problems.report(f"there is no layer `{made.layer}`", made.span, hint)
                continue
            types = (parameter.type for parameter in found.parameters)
            enum = next((kind for kind in types if kind is not None and "".join(kind.names)[:1].isupper()), None)
            if enum is None and made.members:
                self.problems.report(f"{made.layer} has no attribute that is a member of an enum", made.span)
            elif enum is not None:
                for member in made.members:
                    layers.check_member(member, enum)


def _rotated(cycle: list[str]) -> list[str]:
    """A cycle of names that begins with its least, so that it is told the same way from wherever it is found."""
    ring = cycle[:-1]
    start = ring.index(min(ring))
    return [*ring[start:], *ring[:start], ring[start]]


_PYTHON = {"int": int, "float": float, "str": str, "bool": bool}


def _agrees(kind: tree.Type | None, annotation: Any) -> bool:
    """Whether a declared type and a Python annotation can be the same; only plain ones are compared."""
    if kind is None or annotation is inspect.Parameter.empty:
        return True
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    if name not in _PYTHON:
        return True
    if kind.element is not None or kind.items is not None:
        return False
    return len(kind.names) != 1 or kind.names[0] not in _PYTHON or kind.names[0] == name


def _annotation(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
