"""Calls: of functions, macros, host functions, layers and ops.

What a name stands for is found when the call is compiled where that is the same for all rule sets, and once for each
context otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.dsl import tree
from engine.dsl.host import WrongResult
from engine.dsl.rule import OpName
from engine.errors import Span
from engine.evaluator import graphs, loops
from engine.evaluator.bounds import modest
from engine.evaluator.builtins import FUNCTIONS
from engine.evaluator.closures.code import Code, Compile, Names, steps_of
from engine.evaluator.failures import Failed, Raised, located
from engine.evaluator.op_calls import op_call

if TYPE_CHECKING:
    from engine.evaluator.context import Context

_OF_GRAPHS: dict[str, Callable[..., Any]] = {"run": graphs.run, "conditional": graphs.conditional}

# A call's arguments, evaluated: by position, and by name.
_Arguments = Callable[[Names, "Context"], tuple[list[Any], dict[str, Any]]]


def call(expr: tree.Call, compile: Compile) -> Code:
    """``function(arguments)``."""
    function = expr.function
    if isinstance(function, tree.Name):
        if function.name == "loop":
            return _loop(expr, compile)
        if function.name in FUNCTIONS:
            return _of_function(FUNCTIONS[function.name], expr, compile)
        arguments = _arguments(expr, compile)
        if function.name in _OF_GRAPHS:
            return _of_graphs(_OF_GRAPHS[function.name], arguments, expr.span)
        return _of_macro(function.name, arguments, expr.span)
    arguments = _arguments(expr, compile)
    if isinstance(function, tree.Qualified):
        return _of_name(function.name, arguments, expr.span)
    if isinstance(function, tree.Upper):
        return _of_variable(compile(function), arguments, expr.span)
    return _of_nothing(expr.span)


def _arguments(expr: tree.Call, compile: Compile) -> _Arguments:
    parts = expr.arguments
    keywords = [(part.name, compile(part.value)) for part in parts if isinstance(part, tree.Keyword)]
    by_position = parts[: len(parts) - len(keywords)]
    if any(isinstance(part, tree.Splat | tree.Keyword) for part in by_position):
        return _mixed_arguments(expr, compile)
    positional = [compile(part) for part in by_position]  # type: ignore[arg-type]

    def evaluated(names: Names, context: Context) -> tuple[list[Any], dict[str, Any]]:
        return (
            [part(names, context) for part in positional],
            {name: part(names, context) for name, part in keywords} if keywords else {},
        )

    return evaluated


def _mixed_arguments(expr: tree.Call, compile: Compile) -> _Arguments:
    """Arguments with ``..xs`` among them, or keywords before others; they are evaluated in the order written."""
    parts = [
        (part, compile(part.value if isinstance(part, tree.Keyword | tree.Splat) else part)) for part in expr.arguments
    ]

    def evaluated(names: Names, context: Context) -> tuple[list[Any], dict[str, Any]]:
        positional: list[Any] = []
        keywords: dict[str, Any] = {}
        for part, code in parts:
            value = code(names, context)
            if isinstance(part, tree.Keyword):
                keywords[part.name] = value
            elif isinstance(part, tree.Splat):
                positional.extend(modest(value))
            else:
                positional.append(value)
        return positional, keywords

    return evaluated


# ------------------------------------------------------------------------------------------ functions and macros


def _of_function(function: Callable[..., Any], expr: tree.Call, compile: Compile) -> Code:
    span = expr.span
    if len(expr.arguments) == 1 and not isinstance(expr.arguments[0], tree.Keyword | tree.Splat):
        only = compile(expr.arguments[0])

        def of_one(names: Names, context: Context) -> Any:  # most have one argument
            try:
                return function(context, only(names, context))
            except Exception as error:
                raise located(error, span)

        return of_one
    arguments = _arguments(expr, compile)

    def code(names: Names, context: Context) -> Any:
        try:
            positional, keywords = arguments(names, context)
            return function(context, *positional, **keywords)
        except Exception as error:
            raise located(error, span)

    return code


def _of_graphs(function: Callable[..., Any], arguments: _Arguments, span: Span) -> Code:
    def code(names: Names, context: Context) -> Any:
        try:
            positional, keywords = arguments(names, context)
            return function(context, *positional, span=span, **keywords)
        except Exception as error:
            raise located(error, span)

    return code


class CompiledMacro:
    """A macro, ready to be called."""

    __slots__ = ("_body", "_name", "_names", "_parameters", "_steps")

    def __init__(self, macro: tree.Macro, compile: Compile) -> None:
        self._name = macro.name
        self._names = [parameter.name for parameter in macro.parameters]
        self._parameters = [
            (parameter.name, None if parameter.default is None else compile(parameter.default))
            for parameter in macro.parameters
        ]
        self._body = compile(macro.body)
        self._steps = steps_of(macro.body)

    def __call__(self, positional: list[Any], keywords: dict[str, Any], names: Names, context: Context) -> Any:
        """Its value; what is not given is evaluated where it is called, with ``names`` in scope.

        Raises:
            Failed: a parameter is not given, or the body fails.
        """
        context.spend(self._steps)
        if len(positional) == len(self._names):
            return self._body(dict(zip(self._names, positional, strict=True)), context)
        scope: Names = {}
        for index, (parameter, default) in enumerate(self._parameters):
            if index < len(positional):
                scope[parameter] = positional[index]
            elif parameter in keywords:
                scope[parameter] = keywords[parameter]
            elif default is not None:
                scope[parameter] = default(names, context)
            else:
                raise Failed(f"{self._name} needs `{parameter}`")
        return self._body(scope, context)


def _of_macro(name: str, arguments: _Arguments, span: Span) -> Code:
    def code(names: Names, context: Context) -> Any:
        try:
            positional, keywords = arguments(names, context)
            return context.macro(name)(positional, keywords, names, context)
        except Exception as error:
            raise located(error, span)

    return code


def _loop(expr: tree.Call, compile: Compile) -> Code:
    """``loop(macro, trips, states, elements, ..)``: the macro is called once, with the values of a trip."""
    span = expr.span
    order = list(loops.PARAMETERS)
    given = [
        (argument.name, compile(argument.value))
        if isinstance(argument, tree.Keyword)
        else (order[index], compile(argument))  # type: ignore[arg-type]
        for index, argument in enumerate(expr.arguments[1:])
    ]

    def code(names: Names, context: Context) -> Any:
        try:
            macro = context.macro(loops.macro_of(expr))
            arguments = {name: argument(names, context) for name, argument in given}
            entry = loops.start(arguments, span)
            count = len(entry.values["states"])
            trip = [list(entry.outputs[:count]), list(entry.outputs[count:]), arguments.get("given", [])]
            return loops.end(entry, macro(trip, {}, names, context), context.sizes)
        except Exception as error:
            raise located(error, span)

    return code


# ------------------------------------------------------------------------------------------ layers, ops, hosts


def _of_name(name: str, arguments: _Arguments, span: Span) -> Code:
    invoke = _host_call if name.startswith("host.") else _layer_or_op

    def code(names: Names, context: Context) -> Any:
        try:
            positional, keywords = arguments(names, context)
            return invoke(name, positional, keywords, span, context)
        except Exception as error:
            raise located(error, span)

    return code


def _of_variable(variable: Code, arguments: _Arguments, span: Span) -> Code:
    """A call of what a family variable stands for."""

    def code(names: Names, context: Context) -> Any:
        try:
            positional, keywords = arguments(names, context)
            target = variable(names, context)
            name = target.name if isinstance(target, OpName) else str(target)
            invoke = _host_call if name.startswith("host.") else _layer_or_op
            return invoke(name, positional, keywords, span, context)
        except Exception as error:
            raise located(error, span)

    return code


def _host_call(name: str, positional: list[Any], keywords: dict[str, Any], span: Span, context: Context) -> Any:
    try:
        return context.hosts[name](*positional, **keywords)
    except WrongResult as error:
        raise Raised(str(error), span, host=True) from error
    except Exception as error:
        raise Raised.of(error, span, f"{name} raised ") from error


def _layer_or_op(name: str, positional: list[Any], keywords: dict[str, Any], span: Span, context: Context) -> Any:
    layer = context.layer(name)
    if layer is not None:
        return layer(positional, keywords, span, context)
    return op_call(name, positional, keywords, span, context)


def _of_nothing(span: Span) -> Code:
    def code(names: Names, context: Context) -> Any:
        raise Failed("only functions, macros, ops and layers can be called", span)

    return code


__all__ = ["CompiledMacro", "call"]
