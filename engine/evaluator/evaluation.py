"""The evaluator: a tree walk over expressions with one function per syntax node.

Evaluation is pure.  It either yields a value or raises :class:`Failed`, which :func:`apply` turns into a
:class:`Failure` value with the reason and the place in the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch import fx

from engine import sizes as symints
from engine.dsl import tree
from engine.dsl.host import WrongResult
from engine.dsl.rule import EnumToken, Layer, OpName, Rule
from engine.dsl.source import USER
from engine.dsl.vocabulary import constants
from engine.errors import Span
from engine.evaluator import graphs, loops
from engine.evaluator import right_side as calls
from engine.evaluator.bounds import MOST_STEPS, Failed, modest, numbers
from engine.evaluator.builtins import FUNCTIONS, Raised, describe
from engine.evaluator.faults import Faults
from engine.evaluator.plan import AbstractTensor, Captured, Plan, TiledSubgraph, calls_of
from engine.evaluator.undecided import found, undecided
from engine.graph.arguments import symint as number
from engine.graph.mirror import Mirror, Value
from engine.graph.subgraph import Subgraph
from engine.matcher.choices import Choices
from engine.matcher.match import Match
from engine.sizes import Sizes


@dataclass(slots=True)
class Context:
    """What evaluation may read: the graph, its sizes, and the definitions of the rule set.

    Attributes:
        layers, macros, hosts: by name as written in rules (``trt.slice``, ``lift``, ``host.f``).
        inner: makes the tiled graph that rules run from a graph that an op takes, given per input the node of the
            constant that it always is, or None; absent where nothing can be run.
        faults: what rules do wrong is told here.
        steps: how many expressions may still be evaluated for the rule that is tried.
        choices: between right ways, where those were measured.
    """

    mirror: Mirror
    layers: Mapping[str, Layer]
    macros: Mapping[str, tree.Macro]
    hosts: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    inner: Callable[[Subgraph, tuple[fx.Node | None, ...]], TiledSubgraph] | None = None
    faults: Faults = field(default_factory=Faults)
    steps: int = MOST_STEPS
    choices: Choices | None = None

    @property
    def sizes(self) -> Sizes:
        """Answers about symbolic ints."""
        return self.mirror.sizes


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a rule that matched structurally does not apply.

    Attributes:
        guarded: all of its guards held: it is meant for this, and could not be carried out.
        values: gives what the guard that failed read, as far as that is short.
    """

    reason: str
    span: Span | None = None
    guarded: bool = False
    values: Callable[[], str] | None = field(default=None, compare=False)

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        values = self.values() if self.values is not None else ""
        reason = f"{self.reason}: {values}" if values else self.reason
        return reason if self.span is None else f"{reason} ({self.span.file}:{self.span.line})"


class _Lazy:
    """A ``let`` that is evaluated when its name is first read, so that unused branches cost and fail nothing."""

    __slots__ = ("env", "expr", "value")

    def __init__(self, expr: tree.Expr, env: Env) -> None:
        self.expr = expr
        self.env = env
        self.value: Any = self

    def force(self) -> Any:
        if self.value is self:
            self.value = evaluate(self.expr, self.env)
        return self.value


@dataclass(slots=True)
class Env:
    """Names in scope, and the context."""

    names: dict[str, Any]
    context: Context

    def child(self) -> Env:
        """A scope of its own that starts with these names."""
        return Env(dict(self.names), self.context)

    def scope(self, names: dict[str, Any]) -> Env:
        """A scope of these names alone."""
        return Env(names, self.context)

    def known(self) -> dict[str, Any]:
        """The names with their values, without those that nothing has read yet."""
        named = ((name, item.value if isinstance(item, _Lazy) else item) for name, item in self.names.items())
        return {name: item for name, item in named if not isinstance(item, _Lazy)}

    def evaluate(self, expr: tree.Expr) -> Any:
        """The value of an expression in this scope.

        Raises:
            Failed: the rule cannot apply.
        """
        return evaluate(expr, self)


def apply(rule: Rule, match: Match, context: Context) -> Plan | Failure:
    """Evaluate guards, lets and the right side of ``rule`` on a structural match.

    Returns:
        A plan whose outputs align with the roots (several roots), or with the outputs of the one root; or the
        reason why the rule does not apply, which of a `convert` rule may be that it gives another dtype or shape
        than PyTorch.

    Raises:
        EngineError: something in the rule raised, and faults are strict.
    """
    context.steps = MOST_STEPS
    env = Env({name: _abstract(value, context) for name, value in match.bindings.items()}, context)
    env.names.update(rule.family)
    env.names["result"] = _result(match.roots[0], context)
    guarded = False
    try:
        for step in rule.steps:
            if isinstance(step, tree.Guard):
                _check_guard(step, env)
            elif step.target.name is not None:
                env.names[step.target.name] = _Lazy(step.value, Env(env.names, context))
            elif not bind(step.target, evaluate(step.value, env), env.names):
                raise Failed(f"{describe(evaluate(step.value, env))} cannot be bound to its names", step.span)
        guarded = True
        emitted = evaluate(rule.emit, env)
        outputs = _align(emitted, rule, match, context)
        plan = Plan(outputs, calls_of(outputs))
        other = _other_outputs(plan, rule, match, context) if rule.kind == "convert" else None
        return plan if other is None else other
    except Failed as failed:
        return Failure(failed.reason, failed.span, guarded, failed.values)
    except Exception as error:
        raised = Raised.of(error, rule.span)
        at = f"{raised.span.file}:{raised.span.line}"
        message = f"{rule.id} cannot be evaluated{{at}}: {raised.reason} ({at})"
        # Rules that packages bring are not what the user is trying out.
        strict = True if raised.host and rule.level == USER and context.faults.strict_hosts else None
        context.faults.tell(
            rule, match.roots[0], message, kind="raised", strict=strict, cause=raised.__cause__ or error
        )
        return Failure(raised.reason, raised.span, guarded)


def decreasing(rule: Rule, match: Match, context: Context) -> int | None:
    """The measure of a ``decreases`` clause on a match, None if the rule has none."""
    if rule.decreases is None:
        return None
    env = Env({name: _abstract(value, context) for name, value in match.bindings.items()}, context)
    env.names.update(rule.family)
    env.names["result"] = _result(match.roots[0], context)
    for step in rule.steps:
        if isinstance(step, tree.Let) and step.target.name is not None:
            env.names[step.target.name] = _Lazy(step.value, Env(env.names, context))
    context.steps = MOST_STEPS
    return int(evaluate(rule.decreases, env))


def _result(root: fx.Node, context: Context) -> Any:
    val = root.meta.get("val")
    if isinstance(val, list | tuple):
        return tuple(_abstract(Value(root, index), context) for index in range(len(val)))
    return _abstract(Value(root, 0), context)


def _abstract(value: Any, context: Context) -> Any:
    if isinstance(value, Value):
        mirror = context.mirror
        fake = mirror.fake(value)
        if not isinstance(fake, torch.Tensor):
            return number(fake)  # a size that an op with graphs returns, or an output that is not there
        return Captured(mirror.shape(value), mirror.dtype(value), value)
    if isinstance(value, list | tuple):
        return [_abstract(item, context) for item in value]
    return value


def _check_guard(guard: tree.Guard, env: Env) -> None:
    value = evaluate(guard.value, env)
    if guard.target is not None:
        if value is None or not bind(guard.target, value, env.names):
            raise Failed(f"{describe(value)} does not fit `{guard.text}`", guard.span)
        return
    if isinstance(value, sympy.Basic):
        settled = env.context.sizes.decide(value)
        if settled is None:
            about = undecided(guard.value, value, env.known(), env.context.sizes)
            raise Failed(f"`{guard.text}` is not known when compiling: {about}", guard.span)
        value = settled
    if not value:
        raise Failed(f"`{guard.text}` is false", guard.span, lambda: found(guard.value, env.known(), env.context.sizes))


def bind(target: tree.Target, value: Any, names: dict[str, Any]) -> bool:
    """Bind a target to a value; False when the value has another structure."""
    if target.items is None:
        if target.name not in (None, "_"):
            names[target.name] = value  # type: ignore[index]
        return True
    if not isinstance(value, list | tuple) or len(value) != len(target.items):
        return False
    return all(bind(item, part, names) for item, part in zip(target.items, value, strict=True))


def _align(emitted: Any, rule: Rule, match: Match, context: Context) -> tuple[AbstractTensor | None, ...]:
    """Outputs of the plan in the order of the roots or of the root's outputs."""

    def output(value: Any) -> AbstractTensor | None:
        if value is None or isinstance(value, AbstractTensor):
            return value
        if isinstance(value, tuple) and value and isinstance(value[0], AbstractTensor):
            return value[0]  # a multi-output call stands for its first output
        raise Failed(f"the right side is {describe(value)} where a tensor is needed", rule.emit.span)

    if len(match.roots) > 1:
        if not isinstance(emitted, list | tuple) or len(emitted) != len(match.roots):
            raise Failed(f"the right side must emit {len(match.roots)} tensors", rule.emit.span)
        return tuple(map(output, emitted))
    val = match.roots[0].meta.get("val")
    if not isinstance(val, list | tuple):
        return (output(emitted),)
    pattern = rule.roots[0]
    if pattern.outputs is None and isinstance(emitted, AbstractTensor):
        return tuple(emitted if index == pattern.output else None for index in range(len(val)))
    if not isinstance(emitted, list | tuple) or len(emitted) > len(val):
        raise Failed(f"the right side must emit {len(val)} outputs", rule.emit.span)
    outputs = [output(value) for value in emitted]
    return tuple(outputs + [None] * (len(val) - len(outputs)))


def _other_outputs(plan: Plan, rule: Rule, match: Match, context: Context) -> Failure | None:
    """Why a plan cannot replace a match: an output has another dtype, or certainly another shape, than in PyTorch."""
    mirror = context.mirror
    several = len(match.roots) > 1
    for index, output in enumerate(plan.outputs):
        root = match.roots[index if several else 0]
        value = Value(root, rule.roots[index].output if several else index)
        fake = mirror.fake(value)
        if output is None or not isinstance(fake, torch.Tensor) or mirror.unused(value):
            continue
        shape = output.shape
        wanted = mirror.shape(value)
        if output.dtype not in (None, fake.dtype):
            what = "dtype"
        elif shape is not None and (
            len(shape) != len(wanted)
            or any(context.sizes.compare("==", a, b) is False for a, b in zip(shape, wanted, strict=True))
        ):
            what = "shape"
        else:
            continue
        given, pytorch = describe(output), describe(_abstract(value, context))
        return Failure(
            f"the rule emits {given}, which has another {what} than PyTorch's {pytorch}", rule.emit.span, guarded=True
        )
    return None


# ------------------------------------------------------------------------------------------ expressions


def evaluate(expr: tree.Expr, env: Env) -> Any:
    """The value of an expression.

    Raises:
        Failed: the rule cannot apply, with the innermost span that is known.
        Raised: something raised an exception of Python, likewise.
    """
    context = env.context
    context.steps -= 1
    try:
        if context.steps < 0:
            raise Failed(f"takes more than {MOST_STEPS} steps to evaluate")
        return _EVALUATORS[type(expr)](expr, env)
    except Failed as failed:
        if failed.span is None:
            failed.span = expr.span
        raise
    except Raised:
        raise
    except Exception as error:
        raise Raised.of(error, expr.span) from error


def _name(expr: tree.Name, env: Env) -> Any:
    value = env.names.get(expr.name, _MISSING)
    if value is _MISSING:
        known = constants()
        if expr.name in known:
            return known[expr.name]
        raise Failed(f"`{expr.name}` is not bound on this branch of the pattern")
    return value.force() if isinstance(value, _Lazy) else value


_MISSING = object()


def _upper(expr: tree.Upper, env: Env) -> Any:
    value = env.names.get(expr.name, _MISSING)
    return EnumToken(expr.name) if value is _MISSING else value


def _loop(expr: tree.Call, env: Env) -> Any:
    """``loop(macro, trips, states, elements, ..)``: the macro is called once, with the values of a trip."""
    macro = env.context.macros[loops.macro_of(expr)]
    names = list(loops.PARAMETERS)
    arguments: dict[str, Any] = {}
    for index, argument in enumerate(expr.arguments[1:]):
        keyword = isinstance(argument, tree.Keyword)
        name = argument.name if keyword else names[index]  # type: ignore[union-attr]
        arguments[name] = evaluate(argument.value if keyword else argument, env)  # type: ignore[union-attr, arg-type]
    entry = loops.start(arguments, expr.span)
    count = len(entry.values["states"])
    trip = [list(entry.outputs[:count]), list(entry.outputs[count:]), arguments.get("given", [])]
    return loops.end(entry, _macro(macro, trip, {}, env), env.context.sizes)


def _call(expr: tree.Call, env: Env) -> Any:
    if isinstance(expr.function, tree.Name) and expr.function.name == "loop":
        return _loop(expr, env)
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for argument in expr.arguments:
        if isinstance(argument, tree.Keyword):
            keywords[argument.name] = evaluate(argument.value, env)
        elif isinstance(argument, tree.Splat):
            positional.extend(modest(evaluate(argument.value, env)))
        else:
            positional.append(evaluate(argument, env))
    function = expr.function
    if isinstance(function, tree.Name):
        macro = env.context.macros.get(function.name)
        if macro is not None:
            return _macro(macro, positional, keywords, env)
        if function.name in _OF_GRAPHS:
            return _OF_GRAPHS[function.name](env.context, *positional, span=expr.span, **keywords)
        return FUNCTIONS[function.name](env.context, *positional, **keywords)
    if isinstance(function, tree.Upper):
        target = evaluate(function, env)
        name = target.name if isinstance(target, OpName) else str(target)
    elif isinstance(function, tree.Qualified):
        name = function.name
    else:
        raise Failed("only functions, macros, ops and layers can be called")
    if name.startswith("host."):
        try:
            return env.context.hosts[name](*positional, **keywords)
        except WrongResult as error:
            raise Raised(str(error), expr.span, host=True) from error
        except Exception as error:
            raise Raised.of(error, expr.span, f"{name} raised ") from error
    layer = env.context.layers.get(name)
    if layer is not None:
        return calls.layer_call(layer, positional, keywords, expr.span, env)
    return calls.op_call(name, positional, keywords, expr.span, env.context)


_OF_GRAPHS: dict[str, Callable[..., Any]] = {"run": graphs.run, "conditional": graphs.conditional}


def _macro(macro: tree.Macro, positional: list[Any], keywords: dict[str, Any], env: Env) -> Any:
    names: dict[str, Any] = {}
    for index, parameter in enumerate(macro.parameters):
        if index < len(positional):
            names[parameter.name] = positional[index]
        elif parameter.name in keywords:
            names[parameter.name] = keywords[parameter.name]
        elif parameter.default is not None:
            names[parameter.name] = evaluate(parameter.default, env)
        else:
            raise Failed(f"{macro.name} needs `{parameter.name}`")
    return evaluate(macro.body, Env(names, env.context))


def _index(expr: tree.Index, env: Env) -> Any:
    sequence, index = evaluate(expr.value, env), evaluate(expr.index, env)
    if not symints.is_known(index) or not isinstance(sequence, list | tuple | str):
        raise Failed(f"cannot index {describe(sequence)} with {describe(index)}")
    if not -len(sequence) <= index < len(sequence):
        raise Failed(f"index {index} of a list of {len(sequence)}")
    return sequence[index]


def _slice(expr: tree.Slice, env: Env) -> Any:
    bounds = [None if bound is None else evaluate(bound, env) for bound in (expr.start, expr.stop)]
    if not all(bound is None or isinstance(bound, int) for bound in bounds):
        raise Failed(f"slice bounds {describe(bounds)} are not known when compiling")
    return evaluate(expr.value, env)[slice(*bounds)]


def _field(expr: tree.Field, env: Env) -> Any:
    value = evaluate(expr.value, env)
    if isinstance(value, AbstractTensor) and expr.index == 0:
        return value
    if not isinstance(value, list | tuple) or expr.index >= len(value):
        raise Failed(f"{describe(value)} has no output {expr.index}")
    return value[expr.index]


def _unary(expr: tree.Unary, env: Env) -> Any:
    value = evaluate(expr.value, env)
    if expr.operator == "-":
        return symints.normal(-value) if symints.is_symint(value) else -value
    if isinstance(value, sympy.Basic):
        settled = env.context.sizes.decide(value)
        return sympy.Not(value) if settled is None else not settled
    return not value


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": symints.add,
    "-": symints.sub,
    "*": symints.mul,
    "//": symints.floordiv,
    "%": symints.mod,
}
_PLAIN: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "/": lambda a, b: a / b,
}


def _binary(expr: tree.Binary, env: Env) -> Any:
    operator = expr.operator
    if operator in ("and", "or"):
        return _connective(expr, env)
    left, right = evaluate(expr.left, env), evaluate(expr.right, env)
    if operator == "++":
        return modest([*left, *right])
    if operator in ("in", "not in"):
        return _contains(env, left, right) is (operator == "in")
    if operator in ("==", "!=", "<", "<=", ">", ">="):
        return _compare(operator, left, right, env)
    try:
        if symints.is_symint(left) and symints.is_symint(right) and operator != "/":
            return modest(_ARITHMETIC[operator](left, right))
        if not symints.is_known((left, right)):
            raise Failed(f"{left} {operator} {right} is not a whole number known when compiling")
        return modest(_PLAIN[operator](*numbers(left, right)))
    except ZeroDivisionError:
        raise Failed("division by zero") from None
    except OverflowError as error:
        raise Failed(str(error)) from None
    except TypeError:
        raise Failed(f"{describe(left)} {operator} {describe(right)} has no meaning") from None


def _connective(expr: tree.Binary, env: Env) -> Any:
    neutral = expr.operator == "and"
    left = _settle(evaluate(expr.left, env), env)
    if not isinstance(left, sympy.Basic):
        return evaluate(expr.right, env) if bool(left) is neutral else left
    right = _settle(evaluate(expr.right, env), env)
    if not isinstance(right, sympy.Basic):
        return left if bool(right) is neutral else right
    return sympy.And(left, right) if neutral else sympy.Or(left, right)


def _settle(value: Any, env: Env) -> Any:
    if isinstance(value, sympy.Basic) and not isinstance(value, sympy.Expr):
        settled = env.context.sizes.decide(value)
        return value if settled is None else settled
    return value


def _compare(operator: str, left: Any, right: Any, env: Env) -> Any:
    if isinstance(left, list | tuple) and isinstance(right, list | tuple) and operator in ("==", "!="):
        if len(left) != len(right):
            return operator == "!="
        pairs = [_compare("==", a, b, env) for a, b in zip(left, right, strict=True)]
        same = FUNCTIONS["all"](env.context, pairs)
        if operator == "==":
            return same
        return sympy.Not(same) if isinstance(same, sympy.Basic) else not same
    if isinstance(left, sympy.Basic) or isinstance(right, sympy.Basic):
        if not (symints.is_symint(left) and symints.is_symint(right)):
            return operator == "!="  # a size is never equal to none, a string or a dtype
        return env.context.sizes.compare(operator, left, right)
    if isinstance(left, AbstractTensor) or isinstance(right, AbstractTensor):
        return (_same_tensor(left, right)) is (operator == "==")
    if operator in ("==", "!="):
        return (left == right and isinstance(left, bool) == isinstance(right, bool)) is (operator == "==")
    try:
        return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operator]
    except TypeError:
        raise Failed(f"{describe(left)} {operator} {describe(right)} has no meaning") from None


def _same_tensor(left: Any, right: Any) -> bool:
    if isinstance(left, Captured) and isinstance(right, Captured):
        return left.value == right.value
    return left is right


def _contains(env: Env, item: Any, items: Any) -> bool:
    found = FUNCTIONS["any"](env.context, [_compare("==", item, other, env) for other in items])
    if isinstance(found, sympy.Basic):
        raise Failed(f"undecided when compiling: {found}")
    return bool(found)


def _is(expr: tree.Is, env: Env) -> bool:
    value = evaluate(expr.value, env)
    pattern = expr.pattern
    if isinstance(pattern, tree.OpPattern):
        mirror = env.context.mirror
        found = isinstance(value, Captured) and mirror.op(value.value.node) == calls.resolve(pattern.op)[0]
    elif isinstance(pattern, tree.Approximate):
        found = isinstance(value, float | int) and abs(value - pattern.value) <= 1e-6 * abs(pattern.value)
    elif isinstance(pattern, tree.Literal):
        found = value is pattern.value if pattern.value is None else _compare("==", value, pattern.value, env) is True
    else:
        raise Failed("`is` tests an op or a literal")
    return found is not expr.negated


def _conditional(expr: tree.Conditional, env: Env) -> Any:
    test = _settle(evaluate(expr.test, env), env)
    if not isinstance(test, sympy.Basic):
        return evaluate(expr.then if test else expr.otherwise, env)
    return _select(test, evaluate(expr.then, env), evaluate(expr.otherwise, env), env)


def _select(test: sympy.Basic, then: Any, otherwise: Any, env: Env) -> Any:
    if isinstance(then, list | tuple) and isinstance(otherwise, list | tuple) and len(then) == len(otherwise):
        return [_select(test, a, b, env) for a, b in zip(then, otherwise, strict=True)]
    if symints.is_symint(then) and symints.is_symint(otherwise):
        return env.context.sizes.select(test, then, otherwise)
    raise Failed(f"undecided when compiling: {test}")


def _list(expr: tree.ListOf, env: Env) -> list[Any]:
    items: list[Any] = []
    for item in expr.items:
        if isinstance(item, tree.Splat):
            items.extend(evaluate(item.value, env))
        else:
            items.append(evaluate(item, env))
    return modest(items)


def _comprehension(expr: tree.Comprehension, env: Env) -> list[Any]:
    scope = env.child()
    items: list[Any] = []
    for element in evaluate(expr.source, env):
        if not bind(expr.target, element, scope.names):
            raise Failed(f"{describe(element)} cannot be bound to the comprehension's names")
        if expr.test is not None:
            test = _settle(evaluate(expr.test, scope), scope)
            if isinstance(test, sympy.Basic):
                raise Failed(f"undecided when compiling: {test}")
            if not test:
                continue
        items.append(evaluate(expr.value, scope))
    return items


def _qualified(expr: tree.Qualified, env: Env) -> Any:
    return OpName(calls.resolve(expr.name)[0])


_EVALUATORS: dict[type, Callable[[Any, Env], Any]] = {
    tree.Literal: lambda expr, env: expr.value,
    tree.Approximate: lambda expr, env: expr.value,
    tree.Name: _name,
    tree.Upper: _upper,
    tree.Qualified: _qualified,
    tree.Call: _call,
    tree.Index: _index,
    tree.Slice: _slice,
    tree.Field: _field,
    tree.Unary: _unary,
    tree.Binary: _binary,
    tree.Is: _is,
    tree.Conditional: _conditional,
    tree.ListOf: _list,
    tree.TupleOf: lambda expr, env: tuple(evaluate(item, env) for item in expr.items),
    tree.Comprehension: _comprehension,
}

__all__ = ["Context", "Env", "Failure", "apply", "bind", "decreasing", "evaluate"]
