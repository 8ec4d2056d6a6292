"""Checking expressions: names, calls, and sorts where they are certain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from engine.dsl import tree
from engine.dsl.checks import sorts
from engine.dsl.checks.call_checker import CallChecker
from engine.dsl.checks.definitions import Definitions, Effects
from engine.dsl.diagnostics import Problems
from engine.dsl.rule import EnumToken, OpName
from engine.dsl.vocabulary import SIGNATURES, UNSAID, constants, dtype_classes, dtypes, suggestion

Scope = Mapping[str, "str | None"]  # names with their sorts

_NUMBERS = frozenset({"int", "float", "bool"})
_LISTS = frozenset({"list", "tuple", "tensors"})
# A string is a list of its letters.
_ITERABLE = _LISTS | {"str"}


class ExpressionChecker:
    """Checks the expressions of one rule, macro or layer declaration.

    Attributes:
        kind: phase of the rule; None for macros, whose callers have one.
        families: values of the family variables, one mapping per member.
        other_torch: whether the rule is for another PyTorch than the installed one, which may have further ops.
        effects: what the expressions checked so far call.
        used: upper-case names that were read.
    """

    def __init__(
        self,
        definitions: Definitions,
        problems: Problems,
        kind: str | None = None,
        families: Sequence[Mapping[str, object]] = ({},),
        other_torch: bool = False,
    ) -> None:
        self.definitions = definitions
        self.problems = problems
        self.kind = kind
        self.families = families
        self.other_torch = other_torch
        self.effects = Effects()
        self.used: set[str] = set()
        self._calls = CallChecker(self)

    def sort(self, expr: Any, scope: Scope, expected: tree.Type | None = None) -> str | None:
        """Check an expression and give its sort.

        Args:
            expected: declared type of the parameter that the value is for; enum members are looked up in it.
        """
        if isinstance(expr, tree.Upper):
            return self._upper(expr, scope, expected)
        if isinstance(expr, tree.Conditional):
            return self._conditional(expr, scope, expected)
        return _CHECKS[type(expr)](self, expr, scope)

    def bind(self, target: tree.Target, sort: str | None, scope: dict[str, str | None]) -> None:
        """Add the names of a target to a scope."""
        if target.items is not None:
            if sort in _NUMBERS | {"str", "dtype", "none", "tensor"}:
                self.problems.report(f"{sorts.describe(sort)} has no parts to bind", target.span)  # type: ignore[arg-type]
            for item in target.items:
                self.bind(item, None, scope)
        elif target.name is not None and target.name != "_":
            if target.name in constants():
                self.problems.report(f"`{target.name}` is a word of the language and cannot be bound", target.span)
            scope[target.name] = sort

    def family_sort(self, name: str) -> tuple[bool, str | None]:
        """Whether ``name`` is a family variable, and the sort of all its values."""
        values = [family[name] for family in self.families if name in family]
        if not values:
            return False, None
        found = {_family_sort(value) for value in values}
        return True, found.pop() if len(found) == 1 else None

    # ------------------------------------------------------------------------------------ names

    def _upper(self, expr: tree.Upper, scope: Scope, expected: tree.Type | None) -> str | None:
        self.used.add(expr.name)
        if expr.name in scope:
            return scope[expr.name]
        known, sort = self.family_sort(expr.name)
        if known:
            return sort
        if expr.name.startswith(UNSAID):
            self.problems.report(
                f"`{expr.name}` is a place to fill in: say what the rule emits",
                expr.span,
                "a `lower` rule emits ops, `aten.mul.Tensor(x, 2.0)`, a `convert` rule layers, `trt.unary(x, op=EXP)`",
            )
            return None
        layers = self.definitions.layers
        if expected is not None and any(name[0].isupper() for name in expected.names):
            layers.check_member(expr, expected)
            return "enum"
        if self.kind in ("simplify", "lower"):
            uppers = {name for name in [*scope, *self.families[0]] if name[:1].isupper()}
            self.problems.report(f"`{expr.name}` is not bound", expr.span, suggestion(expr.name, uppers))
            return None
        members = layers.enum_members()
        if members is not None and expr.name not in members:
            known_names = members | {name for name in [*scope, *self.families[0]] if name[:1].isupper()}
            self.problems.report(
                f"`{expr.name}` is neither bound nor a member of any enum of a layer",
                expr.span,
                suggestion(expr.name, known_names),
            )
        return "enum"

    def _name(self, expr: tree.Name, scope: Scope) -> str | None:
        name = expr.name
        if name in scope:
            return scope[name]
        if name in constants():
            return "dtype" if name in dtypes() else "list" if name in dtype_classes() else "float"
        if name == "_":
            self.problems.report("`_` binds nothing, so it has no value", expr.span, "give the value a name")
        elif name in SIGNATURES or name in self.definitions.macros:
            self.problems.report(f"`{name}` is a function and is not called here", expr.span, f"call it: `{name}(..)`")
        else:
            hint = suggestion(name, [*scope, *constants()], f"in scope: {_listed(scope)}")
            self.problems.report(f"`{name}` is not bound", expr.span, hint)
        return None

    def _qualified(self, expr: tree.Qualified, scope: Scope) -> str | None:
        self.problems.report(f"`{expr.name}` is not called here", expr.span, f"call it: `{expr.name}(..)`")
        return None

    # ------------------------------------------------------------------------------------ structure

    def _conditional(self, expr: tree.Conditional, scope: Scope, expected: tree.Type | None) -> str | None:
        self._truth(expr.test, scope)
        then = self.sort(expr.then, scope, expected)
        otherwise = self.sort(expr.otherwise, scope, expected)
        return then if then == otherwise else None

    def _truth(self, expr: tree.Expr, scope: Scope) -> None:
        if self.sort(expr, scope) in ("tensor", "tensors"):
            self.problems.report("a tensor is neither true nor false when compiling", expr.span)

    def _unary(self, expr: tree.Unary, scope: Scope) -> str | None:
        if expr.operator == "not":
            self._truth(expr.value, scope)
            return "bool"
        return self._number(expr.value, scope, "-")

    def _number(self, expr: tree.Expr, scope: Scope, operator: str) -> str | None:
        sort = self.sort(expr, scope)
        if sort is not None and sort not in _NUMBERS:
            hint = None
            if sort in ("tensor", "tensors"):
                hint = "tensors are computed by ops: `aten.add.Tensor(a, b)`, or by layers"
            elif sort in ("list", "tuple") and operator == "+":
                hint = "lists are joined with `++`"
            self.problems.report(f"`{operator}` takes numbers, but this is {sorts.describe(sort)}", expr.span, hint)
            return None
        return sort

    def _binary(self, expr: tree.Binary, scope: Scope) -> str | None:
        operator = expr.operator
        if operator in ("and", "or"):
            self._truth(expr.left, scope)
            self._truth(expr.right, scope)
            return "bool"
        if operator == "++":
            for side in (expr.left, expr.right):
                self._listed(side, scope, "`++` joins lists", _LISTS)
            return "list"
        if operator in ("in", "not in"):
            self.sort(expr.left, scope)
            self._listed(expr.right, scope, f"`{operator}` looks into a list")
            return "bool"
        if operator in ("==", "!="):
            self.sort(expr.left, scope)
            self.sort(expr.right, scope)
            return "bool"
        left = self._number(expr.left, scope, operator)
        right = self._number(expr.right, scope, operator)
        if operator in ("<", "<=", ">", ">="):
            return "bool"
        if operator == "/" or "float" in (left, right):
            return "float"
        return "int" if left in ("int", "bool") and right in ("int", "bool") else None

    def _listed(self, expr: tree.Expr, scope: Scope, why: str, allowed: frozenset[str] = _ITERABLE) -> None:
        sort = self.sort(expr, scope)
        if sort is not None and sort not in allowed:
            self.problems.report(f"{why}, but this is {sorts.describe(sort)}", expr.span)

    def _is(self, expr: tree.Is, scope: Scope) -> str | None:
        self.sort(expr.value, scope)
        pattern = expr.pattern
        if isinstance(pattern, tree.OpPattern):
            self._calls.named_op(pattern.op, pattern.span)
            if any(not isinstance(argument, tree.Wildcard | tree.Rest) for argument in pattern.arguments):
                self.problems.report(
                    "`is` tests the op only, not its arguments",
                    pattern.span,
                    f"write `{pattern.op}(..)`; to test arguments, match the op in the pattern",
                )
        return "bool"

    def _index(self, expr: tree.Index, scope: Scope) -> str | None:
        self._listed(expr.value, scope, "`[..]` takes an element of a list")
        sort = self.sort(expr.index, scope)
        if sort is not None and sort != "int":
            self.problems.report(f"an index is an int, but this is {sorts.describe(sort)}", expr.index.span)
        return None

    def _slice(self, expr: tree.Slice, scope: Scope) -> str | None:
        self._listed(expr.value, scope, "`[:]` takes a part of a list")
        for bound in (expr.start, expr.stop):
            if bound is not None:
                self._number(bound, scope, "[:]")
        return "list"

    def _field(self, expr: tree.Field, scope: Scope) -> str | None:
        sort = self.sort(expr.value, scope)
        if sort in _NUMBERS | {"str", "dtype", "none"} or (sort == "tensor" and expr.index > 0):
            self.problems.report(f"{sorts.describe(sort)} has no part {expr.index}", expr.span)  # type: ignore[arg-type]
        if isinstance(expr.value, tree.Call):
            count = self._calls.outputs(expr.value)
            if count is not None and expr.index >= count:
                self.problems.report(f"it has {count} outputs, {expr.index} is none of them", expr.span)
        return "tensor" if sort in ("tensor", "tensors") else None

    def _items(self, expr: tree.ListOf | tree.TupleOf, scope: Scope) -> str | None:
        for item in expr.items:
            self.sort(item, scope)
        return "list" if isinstance(expr, tree.ListOf) else "tuple"

    def _splat(self, expr: tree.Splat, scope: Scope) -> str | None:
        self._listed(expr.value, scope, "`..` spreads a list", _LISTS)
        return None

    def _comprehension(self, expr: tree.Comprehension, scope: Scope) -> str | None:
        self._listed(expr.source, scope, "`for` runs over a list")
        inner = dict(scope)
        self.bind(expr.target, None, inner)
        if expr.test is not None:
            self._truth(expr.test, inner)
        self.sort(expr.value, inner)
        return "list"

    def _call(self, expr: tree.Call, scope: Scope) -> str | None:
        return self._calls.check(expr, scope)


def _family_sort(value: object) -> str | None:
    if isinstance(value, EnumToken):
        return "enum"
    return "op" if isinstance(value, OpName) else sorts.of_literal(value)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "nothing"


def _literal(self: ExpressionChecker, expr: tree.Literal, scope: Scope) -> str | None:
    return sorts.of_literal(expr.value)


_Check = Callable[[ExpressionChecker, Any, Scope], "str | None"]
_CHECKS: dict[type, _Check] = {
    tree.Literal: _literal,
    tree.Approximate: lambda self, expr, scope: "float",
    tree.Name: ExpressionChecker._name,
    tree.Qualified: ExpressionChecker._qualified,
    tree.Call: ExpressionChecker._call,
    tree.Index: ExpressionChecker._index,
    tree.Slice: ExpressionChecker._slice,
    tree.Field: ExpressionChecker._field,
    tree.Unary: ExpressionChecker._unary,
    tree.Binary: ExpressionChecker._binary,
    tree.Is: ExpressionChecker._is,
    tree.ListOf: ExpressionChecker._items,
    tree.TupleOf: ExpressionChecker._items,
    tree.Comprehension: ExpressionChecker._comprehension,
    tree.Splat: ExpressionChecker._splat,
}

__all__ = ["ExpressionChecker", "Scope"]
