"""Checking calls: of ops by their schema, of layers, macros and host functions by their declaration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.dsl import operators, tree
from engine.dsl.checks import sorts
from engine.dsl.checks.patterns.pattern_resolver import find_operator
from engine.dsl.operators import Operator
from engine.dsl.rule import OpName
from engine.dsl.vocabulary import OF_GRAPHS, SIGNATURES, nearest, suggestion
from engine.errors import Span

if TYPE_CHECKING:
    from engine.dsl.checks.expression_checker import ExpressionChecker, Scope

_RESULTS = {
    **dict.fromkeys(("rank", "dim", "numel", "len", "int"), "int"),
    **dict.fromkeys(("is_const", "is_code", "is_full", "has_full_row", "is_kept", "is_known", "is_tensor"), "bool"),
    **dict.fromkeys(("is_between", "is_fixed", "is_shared", "unused", "overwritten"), "bool"),
    **dict.fromkeys(("all", "any", "bool"), "bool"),
    **dict.fromkeys(("shape", "values", "range", "zip", "enumerate", "reversed", "sorted"), "list"),
    **dict.fromkeys(("present", "prefix_sums", "broadcast", "block_shape", "run", "conditional"), "list"),
    **dict.fromkeys(("full", "scalar", "tensor", "filled", "converted"), "tensor"),
    **dict.fromkeys(("sqrt", "exp", "log", "cos", "sin", "float", "epsilon", "smallest", "largest"), "float"),
    "dtype": "dtype",
    "multiplied": "dtype",
}
# Builtins whose first argument is certainly a tensor, a list, a dtype.
_FIRST: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("rank", "shape", "dim", "dtype", "numel"), ("tensor",)),
    **dict.fromkeys(("len", "enumerate", "reversed", "sorted", "all", "any"), ("list", "tuple", "tensors", "str")),
    **dict.fromkeys(("sum", "prod", "prefix_sums", "broadcast", "present"), ("list", "tuple", "tensors")),
    **dict.fromkeys(("epsilon", "smallest", "largest"), ("dtype",)),
    "run": ("graph",),
    "conditional": ("list", "tuple", "tensors"),
}
# ... and their second argument, where it is certain.
_SECOND: dict[str, tuple[str, ...]] = {
    "dim": ("int",),
    "scalar": ("dtype",),
    "converted": ("dtype",),
    "tensor": ("dtype",),
    "full": ("tensor",),
    "run": ("list", "tuple", "tensors"),
    "conditional": ("list", "tuple"),
}


class CallChecker:
    """Checks the calls of an :class:`engine.dsl.checks.expression_checker.ExpressionChecker`."""

    def __init__(self, expressions: ExpressionChecker) -> None:
        self.expressions = expressions
        self.problems = expressions.problems
        self.definitions = expressions.definitions
        self.effects = expressions.effects

    def check(self, call: tree.Call, scope: Scope) -> str | None:
        """Check a call with its arguments and give the sort of its result."""
        function = call.function
        if isinstance(function, tree.Name):
            return self._function(function, call, scope)
        if isinstance(function, tree.Upper):
            return self._family(function, call, scope)
        if not isinstance(function, tree.Qualified):
            self.expressions.sort(function, scope)
            self._arguments(call, scope)
            self.problems.report("only functions, macros, ops and layers can be called", function.span)
            return None
        if function.name.startswith("trt."):
            return self._layer(function, call, scope)
        if function.name.startswith("host."):
            return self._host(function, call, scope)
        operator = self.named_op(function.name, function.span)
        if operator is not None and operators.is_higher_order(function.name):
            self._arguments(call, scope)
            self.problems.report(
                "a rule cannot emit an op that runs graphs", function.span, "`run` runs a graph in an engine"
            )
            return None
        if operator is not None:
            self._emits(operator.name, function.span)
            return self._op(operator, call, scope)
        self._arguments(call, scope)
        return None

    def outputs(self, call: tree.Call) -> int | None:
        """How many outputs a call has; None if that is not certain."""
        function = call.function
        if isinstance(function, tree.Qualified):
            if function.name.startswith("trt."):
                layer = self.definitions.layers.items.get(function.name)
                return None if layer is None else len(layer.outputs)
            operator = operators.find(function.name)
            if operator is not None and not any("[" in kind for kind in operator.returns):
                return len(operator.returns)
        return None

    def named_op(self, name: str, span: Span) -> Operator | None:
        """The op that a name or a family variable stands for; of a family, its first."""
        if "." in name:
            return self._found(name, span)
        self.expressions.used.add(name)
        for family in self.expressions.families:
            value = family.get(name)
            if isinstance(value, OpName):
                return self._found(value.name, span)
        self.problems.report(f"`{name}` is not an op", span, f"bind it: `for {name} in aten.add.Tensor, ..`")
        return None

    def _found(self, name: str, span: Span) -> Operator | None:
        return find_operator(name, span, self.problems, set(), self.effects.unloaded, self.expressions.other_torch)

    # ------------------------------------------------------------------------------------ arguments

    def _arguments(self, call: tree.Call, scope: Scope) -> list[tuple[Any, str | None]]:
        """Check all arguments; returns them with their sorts."""
        return [
            (argument, self.expressions.sort(argument.value if isinstance(argument, tree.Keyword) else argument, scope))
            for argument in call.arguments
        ]

    def _assign(
        self, call: tree.Call, names: Sequence[str], positional: int, what: str, signature: str
    ) -> tuple[dict[str, tree.Expr], bool]:
        """Arguments by parameter name, and whether more may have been meant: by a ``..list``, or a mistake.

        Args:
            positional: how many of ``names`` may be given by position.
        """
        given: dict[str, tree.Expr] = {}
        spread = False
        index = 0
        for argument in call.arguments:
            if isinstance(argument, tree.Splat):
                spread = True
                continue
            if isinstance(argument, tree.Keyword):
                name, value = argument.name, argument.value
                if name not in names:
                    near = nearest(name, names)
                    hint = f"did you mean `{near}`?" if near else signature
                    self.problems.report(f"{what} has no parameter `{name}`", argument.span, hint)
                    spread = True
                    continue
            else:
                if spread:
                    continue
                if index >= positional:
                    hint = f"attributes are given by name; {signature}" if positional < len(names) else signature
                    self.problems.report(f"{what} takes {_count(positional)}", argument.span, hint)
                    spread = True
                    continue
                name, value = names[index], argument
                index += 1
            if name in given:
                self.problems.report(f"`{name}` of {what} is given twice", argument.span)
            given[name] = value  # type: ignore[assignment]
        return given, spread

    # ------------------------------------------------------------------------------------ ops

    def _family(self, function: tree.Upper, call: tree.Call, scope: Scope) -> str | None:
        name = function.name
        self.expressions.used.add(name)
        values = [family.get(name) for family in self.expressions.families]
        found = [value for value in values if isinstance(value, OpName)]
        if len(found) < len(values) or name in scope:
            self.problems.report(
                f"`{name}` is not an op and cannot be called",
                function.span,
                f"bind it: `for {name} in aten.add.Tensor, ..`",
            )
            self._arguments(call, scope)
            return None
        result = None
        for value in found:
            operator = self._found(value.name, function.span)
            if operator is not None:
                self._emits(operator.name, function.span)
                result = self._op(operator, call, scope)
        return result

    def _emits(self, name: str, span: Span) -> None:
        self.effects.ops.setdefault(name, span)
        if self.expressions.kind == "convert":
            self.problems.report(
                f"a `convert` rule emits TensorRT layers, but {name} is an op",
                span,
                "use `trt.` layers here, or make it a `lower` rule",
            )

    def _op(self, operator: Operator, call: tree.Call, scope: Scope) -> str | None:
        names = [argument.name for argument in operator.arguments]
        given, spread = self._assign(call, names, len(names), operator.name, operator.schema)
        sort_of = {
            id(argument.value if isinstance(argument, tree.Keyword) else argument): sort
            for argument, sort in self._arguments(call, scope)
        }
        for argument in operator.arguments:
            if argument.name not in given:
                if argument.default is ... and not spread:
                    self.problems.report(f"{operator.name} needs `{argument.name}`", call.span, operator.schema)
                continue
            value = given[argument.name]
            sort = sort_of.get(id(value))
            if not sorts.fits_schema(sort, argument.kind, argument.optional):
                kind = argument.kind + (" or none" if argument.optional else "")
                self.problems.report(
                    f"`{argument.name}` of {operator.name} is {kind}, but this is {sorts.describe(sort)}",  # type: ignore[arg-type]
                    value.span,
                    operator.schema,
                )
        return "tensor" if operator.returns == ("Tensor",) else "tensors"

    # ------------------------------------------------------------------------------------ layers

    def _layer(self, function: tree.Qualified, call: tree.Call, scope: Scope) -> str | None:
        layers = self.definitions.layers
        layer = layers.items.get(function.name)
        if layer is None:
            self._arguments(call, scope)
            hint = suggestion(function.name, layers.items, "layers are declared in rules/layers.rules")
            declared = bool(self.definitions.layers.items)
            without = (
                "" if declared else ": the built-in rules declare them, and are not loaded (builtin=True loads them)"
            )
            self.problems.report(f"there is no layer `{function.name}`{without}", function.span, hint)
            return None
        self.effects.layers.setdefault(function.name, function.span)
        if self.expressions.kind in ("simplify", "lower"):
            self.problems.report(
                f"a `{self.expressions.kind}` rule emits ops, but {function.name} is a TensorRT layer",
                function.span,
                "use ops here, or make it a `convert` rule",
            )
        inputs = [parameter.name for parameter in layer.parameters if not parameter.attribute]
        names = [parameter.name for parameter in layer.parameters]
        attributes = [parameter.name for parameter in layer.parameters if parameter.attribute]
        signature = f"inputs: {', '.join(inputs) or 'none'}; attributes: {', '.join(attributes) or 'none'}"
        given, spread = self._assign(call, names, len(inputs), function.name, signature)
        for argument in call.arguments:
            value = argument.value if isinstance(argument, tree.Keyword) else argument
            parameter = next((layer.by_name[name] for name, given_ in given.items() if given_ is value), None)
            kind = None if parameter is None else parameter.type
            sort = self.expressions.sort(value, scope, kind)
            if parameter is not None and kind is not None and not sorts.fits_type(sort, kind):
                self.problems.report(
                    f"`{parameter.name}` of {function.name} is {sorts.show(kind)}, but this is {sorts.describe(sort)}",  # type: ignore[arg-type]
                    value.span,
                )
        for parameter in layer.parameters:
            optional = parameter.default is not None or (parameter.type is not None and parameter.type.optional)
            if parameter.name not in given and not optional and not spread:
                self.problems.report(f"{function.name} needs `{parameter.name}`", call.span, signature)
        return "tensor" if len(layer.outputs) == 1 else "tensors"

    # ------------------------------------------------------------------------------------ functions

    def _host(self, function: tree.Qualified, call: tree.Call, scope: Scope) -> str | None:
        extern = self.definitions.externs.get(function.name)
        self.effects.hosts.setdefault(function.name, function.span)
        if extern is None:
            self._arguments(call, scope)
            hint = suggestion(
                function.name, self.definitions.externs, f"declare it: `extern {function.name}(..) -> ..`"
            )
            self.problems.report(f"`{function.name}` is not declared", function.span, hint)
            return None
        self._declared(extern.parameters, function.name, call, scope)
        kind = extern.result
        if kind.optional or (kind.element is None and len(kind.names) != 1):
            return None
        return "list" if kind.element is not None else _DECLARED_SORTS.get(kind.names[0])

    def _function(self, function: tree.Name, call: tree.Call, scope: Scope) -> str | None:
        name = function.name
        macro = self.definitions.macros.get(name)
        if macro is not None:
            self.effects.macros.setdefault(name, function.span)
            self._declared(macro.parameters, f"`{name}`", call, scope)
            return None
        if name == LOOP:
            return self._loop(call, scope)
        found = self._arguments(call, scope)
        arity = SIGNATURES.get(name)
        if arity is None:
            in_full = f"ops are written in full: `aten.{name}(..)`" if operators.find(f"aten.{name}") else None
            hint = suggestion(name, [*SIGNATURES, LOOP, *self.definitions.macros], in_full)
            self.problems.report(f"there is no function or macro `{name}`", function.span, hint)
            return None
        if name in OF_GRAPHS and self.expressions.kind in ("simplify", "lower"):
            self.problems.report("rules run graphs in engines", call.span, "make it a `convert` rule")
        least, most = arity
        spread = any(isinstance(argument, tree.Splat) for argument, _ in found)
        count = sum(not isinstance(argument, tree.Splat) for argument, _ in found)
        if (count < least and not spread) or (most is not None and count > most):
            wanted = str(least) if most == least else f"{least} or more" if most is None else f"{least} to {most}"
            plural = "" if wanted == "1" else "s"
            self.problems.report(f"`{name}` takes {wanted} argument{plural}, got {count}", call.span)
        for position, table in enumerate((_FIRST, _SECOND)):
            allowed = table.get(name)
            if allowed is None or position >= len(found) or spread:
                continue
            argument, sort = found[position]
            if sort is not None and sort not in allowed and not (sort == "bool" and "int" in allowed):
                self.problems.report(
                    f"`{name}` takes {sorts.describe(allowed[0])} here, but this is {sorts.describe(sort)}",
                    argument.span,
                )
        return _RESULTS.get(name)

    def _loop(self, call: tree.Call, scope: Scope) -> str | None:
        """``loop(macro, trips, states, elements, ..)``."""
        signature = f"{LOOP}(macro, {', '.join(_LOOP_PARAMETERS)})"
        if self.expressions.kind in ("simplify", "lower"):
            self.problems.report(
                "only `convert` rules have loops, which TensorRT runs", call.span, "make it a `convert` rule"
            )
        first = call.arguments[0] if call.arguments else None
        macro = self.definitions.macros.get(first.name) if isinstance(first, tree.Name) else None
        if macro is None or first is None:
            self.problems.report("`loop` takes the name of a macro first", call.span, signature)
            return None
        self.effects.macros.setdefault(macro.name, first.span)
        if len(macro.parameters) != 3:
            self.problems.report(
                f"`{macro.name}` takes {len(macro.parameters)} parameters; a trip takes its states, its elements, and "
                "the values given to all trips",
                first.span,
                f"def {macro.name}(states, elements, given) = ..",
            )
        rest = replace(call, arguments=call.arguments[1:])
        given, spread = self._assign(rest, list(_LOOP_PARAMETERS), len(_LOOP_PARAMETERS), "`loop`", signature)
        for name, value in given.items():
            sort = self.expressions.sort(value, scope)
            if sort is not None and sort not in _LOOP_PARAMETERS[name]:
                wanted = sorts.describe(_LOOP_PARAMETERS[name][0])
                self.problems.report(f"`{name}` of `loop` is {wanted}, but this is {sorts.describe(sort)}", value.span)
        for name in ("trips", "states", "elements"):
            if name not in given and not spread:
                self.problems.report(f"`loop` needs `{name}`", call.span, signature)
        return "tuple"

    def _declared(self, parameters: Sequence[tree.Parameter], what: str, call: tree.Call, scope: Scope) -> None:
        names = [parameter.name for parameter in parameters]
        signature = f"{what.strip('`')}({', '.join(names)})"
        given, spread = self._assign(call, names, len(names), what, signature)
        by_name = {parameter.name: parameter for parameter in parameters}
        for argument in call.arguments:
            value = argument.value if isinstance(argument, tree.Keyword) else argument
            parameter = next((by_name[name] for name, given_ in given.items() if given_ is value), None)
            kind = None if parameter is None else parameter.type
            sort = self.expressions.sort(value, scope, kind)
            if parameter is not None and kind is not None and not sorts.fits_type(sort, kind):
                self.problems.report(
                    f"`{parameter.name}` of {what} is {sorts.show(kind)}, but this is {sorts.describe(sort)}",  # type: ignore[arg-type]
                    value.span,
                )
        for parameter in parameters:
            if parameter.name not in given and parameter.default is None and not spread:
                self.problems.report(f"{what} needs `{parameter.name}`", call.span, signature)


# The one call that takes a macro: what it makes of it is not a value.
LOOP = "loop"
_LOOP_PARAMETERS: dict[str, tuple[str, ...]] = {
    "trips": ("int", "none"),
    **dict.fromkeys(("states", "elements", "given"), ("list", "tuple", "tensors")),
    "axis": ("int",),
    "reverse": ("bool",),
}
_DECLARED_SORTS = {"int": "int", "float": "float", "bool": "bool", "str": "str", "dtype": "dtype"}


def _count(number: int) -> str:
    return f"{number} positional argument" + ("" if number == 1 else "s")
