"""Arguments of nodes, normalised: schema order, values for tensors, symbolic ints for sizes."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload

from engine import sizes
from engine.errors import EngineError
from engine.graph.value import Value

Symbolic = (torch.SymInt, torch.SymFloat, torch.SymBool)


@cache
def op_name(target: Any) -> str:
    """What rules call a ``call_function`` target: ``aten.add.Tensor``, ``operator.mul``, ``getitem``."""
    if target is operator.getitem:
        return "getitem"
    if isinstance(target, OpOverload):
        return str(target)
    if isinstance(target, HigherOrderOperator):
        return f"higher_order.{target._name}"
    module = getattr(target, "__module__", "")
    return f"{'operator' if module == '_operator' else module}.{getattr(target, '__name__', target)}"


@cache
def parameters(target: OpOverload) -> tuple[tuple[str, bool, bool, Any], ...]:
    """Per schema argument: name, keyword-only, has a default, the default."""
    return tuple(
        (argument.name, argument.kwarg_only, argument.has_default_value(), argument.default_value)
        for argument in target._schema.arguments
    )


@cache
def graph_parameters(target: HigherOrderOperator) -> tuple[tuple[str, bool, bool, Any], ...]:
    """Like :func:`parameters`, of an op that runs graphs: it has no schema, but a Python signature.

    Where the op passes on whatever it is called with, that of its eager implementation.
    """
    eager = target.py_kernels.get(torch._C.DispatchKey.CompositeExplicitAutograd)
    signatures = [inspect.signature(function) for function in (target, eager) if function is not None]
    named = [
        [p for p in signature.parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        for signature in signatures
    ]
    return tuple(
        (p.name, p.kind is p.KEYWORD_ONLY, p.default is not p.empty, None if p.default is p.empty else p.default)
        for p in next(filter(None, named), [])
    )


def in_schema_order(node: fx.Node) -> tuple[Any, ...]:
    """The arguments of a node as FX holds them, in schema order, defaults included."""
    target = node.target
    if isinstance(target, OpOverload):
        known = parameters(target)
    elif isinstance(target, HigherOrderOperator) and len(node.args) <= len(graph_parameters(target)):
        known = graph_parameters(target)
    else:
        return (*node.args, *node.kwargs.values())
    found: list[Any] = []
    for position, (name, _, _, default) in enumerate(known):
        if position < len(node.args):
            found.append(node.args[position])
        else:
            found.append(node.kwargs.get(name, default))
    return tuple(found)


def split(target: OpOverload, arguments: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword-only arguments from all in schema order; missing ones get their defaults.

    Raises:
        EngineError: there are too many arguments, or one without a default is missing.
    """
    schema = parameters(target)
    if len(arguments) > len(schema):
        raise EngineError(f"{target} takes {len(schema)} arguments, {len(arguments)} were given")
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for position, (name, keyword_only, has_default, default) in enumerate(schema):
        if position >= len(arguments) and not has_default:
            raise EngineError(f"{target} needs the argument '{name}', which was not given")
        value = arguments[position] if position < len(arguments) else default
        if keyword_only:
            keywords[name] = value
        else:
            positional.append(value)
    return tuple(positional), keywords


def is_symbolic(value: Any) -> bool:
    """Whether a fake value of a node is a symbolic scalar."""
    return isinstance(value, Symbolic)


def symint(value: Any) -> Any:
    """A symbolic scalar as a symbolic int (or a sympy expression for floats and bools); others unchanged."""
    if isinstance(value, torch.SymInt):
        return sizes.normal(value)
    if isinstance(value, torch.SymFloat | torch.SymBool):
        return value.node.expr
    return value


def resolve(node: fx.Node) -> Value:
    """The value a node stands for; ``getitem`` nodes are folded into their source."""
    if node.op == "call_function" and node.target is operator.getitem:
        source, index = node.args
        if isinstance(source, fx.Node) and isinstance(index, int):
            inner = resolve(source)
            if inner.node is not source:
                raise EngineError(f"{node.name}: nested outputs are not part of the canonical graph")
            return Value(source, index)
    return Value(node, 0)


def normalise(argument: Any) -> Any:
    """An FX argument as rules see it: :class:`Value`, symbolic int, tuple, graph, or the Python value itself."""
    if isinstance(argument, fx.Node):
        if "graph" in argument.meta:
            return argument.meta["graph"]
        value = argument.meta.get("val")
        if isinstance(value, torch.Tensor | tuple | list) or value is None:
            return resolve(argument)
        return symint(value)
    if isinstance(argument, list | tuple):
        return tuple(map(normalise, argument))
    return symint(argument)


def values_in(argument: Any) -> list[Value]:
    """Every :class:`Value` in a nested argument, left to right."""
    if isinstance(argument, Value):
        return [argument]
    if isinstance(argument, tuple | list):
        return [value for item in argument for value in values_in(item)]
    return []


def map_values(argument: Any, function: Callable[[Any], Any]) -> Any:
    """Apply ``function`` to every leaf of a nested argument; tuples become lists, as FX has them."""
    if isinstance(argument, tuple | list) and not isinstance(argument, Value):
        return [map_values(item, function) for item in argument]
    return function(argument)
