"""Resolving patterns: names to ops, arguments to schema positions, omissions to defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.dsl import operators, tree
from engine.dsl.checks import sorts
from engine.dsl.diagnostics import Problems
from engine.dsl.forms import names_in_some
from engine.dsl.operators import Argument, Operator
from engine.dsl.rule import Anything, ArgumentPattern, Bind, EnumToken, Equals, ListMatch, OneOf, OpMatch, OpName
from engine.dsl.vocabulary import SORTS, dtype_classes, dtypes, nearest
from engine.errors import Span


class PatternResolver:
    """Resolves the patterns of one rule under one assignment of its family variables.

    Args:
        other_torch: the rule is for another PyTorch than the installed one, which may have further ops.

    Attributes:
        bound: every name that the pattern binds, with its type if one is written.
        used: family variables that the pattern reads.
        ops: ops that the pattern names, found or not.
        unloaded: ops of namespaces that this process has not loaded, or of another PyTorch.
        flags: names of alternatives, each with where those alternatives are.
        partial: names that some of several alternatives bind and others do not, with those alternatives.
    """

    def __init__(self, family: Mapping[str, object], problems: Problems, other_torch: bool = False) -> None:
        self.family = family
        self.other_torch = other_torch
        self.problems = problems
        self.bound: dict[str, str | None] = {}
        self.used: set[str] = set()
        self.ops: set[str] = set()
        self.unloaded: set[str] = set()
        self.flags: dict[str, Span] = {}
        self.partial: dict[str, OneOf] = {}
        self._dims: set[str] = set()

    def roots(self, pattern: tree.Pattern) -> tuple[OpMatch, ...]:
        """The root patterns of a ``match`` clause."""
        parts = pattern.roots if isinstance(pattern, tree.TuplePattern) else (pattern,)
        resolved = []
        for part in parts:
            if isinstance(part, tree.Alternatives):
                self.problems.report(
                    "alternatives cannot be the root of a pattern",
                    part.span,
                    "write a rule for each, or a family: `for OP in aten.add.Tensor, aten.sub.Tensor`",
                )
                self._argument(part, None, None)  # for the names that it binds
                continue
            if not isinstance(part, tree.OpPattern):
                self.problems.report("the root of a pattern is an op", part.span, "write it as `aten.op(..)`")
                continue
            if part.shared or part.optional:
                mark = "&" if part.shared else "?"
                self.problems.report(
                    f"`{mark}` has no meaning at the root of a pattern", part.span, "it is for the ops inside"
                )
            root = self._op(part)
            if root is not None:
                resolved.append(root)
        for root in resolved:
            self.partial.update(names_in_some(root))
        for name in self.partial:
            self.bound[name] = None
        for name, span in self.flags.items():
            if name in self.bound:
                self.problems.report(
                    f"`{name}` is both a capture of the pattern and the name of an alternative", span, "rename one"
                )
            self.bound[name] = "bool"
        return tuple(resolved) if len(resolved) == len(parts) else ()

    def _op(self, pattern: tree.OpPattern) -> OpMatch | None:
        operator = self._operator(pattern)
        if operator is None:
            return self._unresolved(pattern)
        given, rest = self._given(pattern, operator)
        if rest is None:
            self._fill(pattern, operator, given)
        self._outputs(pattern, operator)
        tensors = [i for i, argument in enumerate(operator.arguments) if "Tensor" in argument.kind]
        if pattern.unordered and tensors[:2] != [0, 1]:
            self.problems.report(f"{operator.name} has no two operands to exchange", pattern.span, "use `(..)`")
        if pattern.optional and not tensors:
            self.problems.report(f"{operator.name} has no operand that could replace it", pattern.span)
        return OpMatch(
            operator.name,
            tuple(sorted(given.items(), key=lambda item: item[0])),
            rest.name if rest is not None else None,
            pattern.output or 0,
            pattern.outputs,
            pattern.shared,
            pattern.optional,
            pattern.unordered,
            pattern.span,
        )

    def _unresolved(self, pattern: tree.OpPattern) -> OpMatch | None:
        """An op without a schema: told already, or of a package that is not loaded; then its rule stays inactive."""
        found = [(index, self._anything(argument)) for index, argument in enumerate(pattern.arguments)]
        self._outputs(pattern, None)
        named = self.family.get(pattern.op, pattern.op)
        op = named.name if isinstance(named, OpName) else pattern.op
        if op not in self.unloaded:
            return None
        arguments = tuple((index, argument) for index, argument in found if argument is not None)
        return OpMatch(op, arguments, None, pattern.output or 0, pattern.outputs, False, False, False, pattern.span)

    def _operator(self, pattern: tree.OpPattern) -> Operator | None:
        name = pattern.op
        if "." not in name:
            self.used.add(name)
            value = self.family.get(name)
            if not isinstance(value, OpName):
                if name in self.family:
                    hint = "give it op names: `for OP in aten.add.Tensor, aten.sub.Tensor`"
                else:
                    hint = f"bind it: `for {name} in aten.add.Tensor, aten.sub.Tensor`"
                self.problems.report(f"`{name}` is not an op", pattern.span, hint)
                return None
            name = value.name
        elif name.startswith(("trt.", "host.")):
            self.problems.report(f"patterns match PyTorch's ops, and `{name}` is not one", pattern.span)
            return None
        return find_operator(name, pattern.span, self.problems, self.ops, self.unloaded, self.other_torch)

    def _given(
        self, pattern: tree.OpPattern, operator: Operator
    ) -> tuple[dict[int, ArgumentPattern], tree.Rest | None]:
        given: dict[int, ArgumentPattern] = {}
        rest: tree.Rest | None = None
        keyword_seen = False
        for index, argument in enumerate(pattern.arguments):
            if isinstance(argument, tree.Rest):
                if index != len(pattern.arguments) - 1:
                    self.problems.report("`..` comes last among arguments", argument.span)
                if argument.name is not None:
                    self.bound[argument.name] = "list"
                rest = argument
                continue
            position, value = index, argument
            if isinstance(argument, tree.Keyword):
                keyword_seen = True
                value = argument.value  # type: ignore[assignment]
                if argument.name not in operator.positions:
                    self._no_argument(operator, argument.name, argument.span)
                    self._anything(value)
                    continue
                position = operator.positions[argument.name]
            elif keyword_seen:
                self.problems.report("positional arguments come before named ones", argument.span)
                self._anything(value)
                continue
            elif index >= len(operator.arguments):
                self.problems.report(
                    f"{operator.name} takes {len(operator.arguments)} arguments", argument.span, operator.schema
                )
                self._anything(value)
                continue
            schema = operator.arguments[position]
            if position in given:
                self.problems.report(f"`{schema.name}` of {operator.name} is given twice", argument.span)
                continue
            resolved = self._argument(value, schema, operator)  # type: ignore[arg-type]
            if resolved is not None:
                given[position] = resolved
        return given, rest

    def _no_argument(self, operator: Operator, name: str, span: Span) -> None:
        near = nearest(name, operator.positions)
        hint = f"did you mean `{near}`?" if near else operator.schema
        self.problems.report(f"{operator.name} has no argument `{name}`", span, hint)

    def _fill(self, pattern: tree.OpPattern, operator: Operator, given: dict[int, ArgumentPattern]) -> None:
        """Closed world: what a pattern does not mention has its default."""
        for position, argument in enumerate(operator.arguments):
            if position in given:
                continue
            default = argument.default
            if default is ...:
                self.problems.report(
                    f"{operator.name} needs `{argument.name}`",
                    pattern.span,
                    f"match it, or end the arguments with `..`; {operator.schema}",
                )
            elif _never_canonical(argument):
                self.problems.report(
                    f"the default of `{argument.name}` of {operator.name} never shows in a graph",
                    pattern.span,
                    f"a graph has the value that {_plain(default)} stands for: bind it, `{argument.name}=name`, "
                    "and test it",
                )
            else:
                given[position] = Equals(default, False, pattern.span)

    def _outputs(self, pattern: tree.OpPattern, operator: Operator | None) -> None:
        for name in pattern.outputs or ():
            if name is not None:
                self.bound[name] = "tensor"
        if operator is None or any("[" in kind for kind in operator.returns):
            return
        count = len(operator.returns)
        if pattern.output is not None and pattern.output >= count:
            self.problems.report(f"{operator.name} has {_outputs(count)}", pattern.span, operator.schema)
        if pattern.outputs is not None and len(pattern.outputs) != count:
            self.problems.report(
                f"{operator.name} has {_outputs(count)}, {len(pattern.outputs)} are named",
                pattern.span,
                operator.schema,
            )

    # ------------------------------------------------------------------------------------ arguments

    def _anything(self, pattern: Any) -> ArgumentPattern | None:
        """Resolve a pattern whose place is unknown, for the names it binds."""
        if isinstance(pattern, tree.Keyword):
            pattern = pattern.value
        if isinstance(pattern, tree.Rest):
            if pattern.name is not None:
                self.bound[pattern.name] = "list"
            return None
        return self._argument(pattern, None, None)

    def _argument(
        self, pattern: tree.Pattern, schema: Argument | None, operator: Operator | None
    ) -> ArgumentPattern | None:
        match pattern:
            case tree.OpPattern():
                self._fits("tensor", pattern.span, schema, operator)
                return self._op(pattern)
            case tree.Capture():
                return self._capture(pattern, schema)
            case tree.Wildcard():
                return Anything(pattern.span)
            case tree.Literal():
                return self._literal(pattern.value, pattern.span, schema, operator)
            case tree.Approximate():
                self._fits("float", pattern.span, schema, operator)
                return Equals(pattern.value, True, pattern.span)
            case tree.Upper():
                return self._upper(pattern, schema, operator)
            case tree.ListPattern():
                self._fits("list", pattern.span, schema, operator)
                return self._list(pattern, schema, operator)
            case tree.Alternatives():
                return self._alternatives(pattern, schema, operator)
            case tree.Qualified():
                self.problems.report(
                    f"`{pattern.name}` is an op without arguments", pattern.span, f"write `{pattern.name}(..)`"
                )
                return Anything(pattern.span)
            case tree.TuplePattern():
                self.problems.report("only the top of a pattern can have several roots", pattern.span)
        return None

    def _literal(
        self, value: object, span: Span, schema: Argument | None, operator: Operator | None
    ) -> ArgumentPattern:
        self._fits(sorts.of_literal(value), span, schema, operator)
        if schema is not None and schema.is_dim and type(value) is int and value < 0:
            self.problems.report(
                f"dims count from the front in a graph, `{schema.name}` is never {value}",
                span,
                f"bind it, `{schema.name}=d`, and test `when d == rank(x) - {-value}`",
            )
        return Equals(value, False, span)

    def _fits(self, sort: str | None, span: Span, schema: Argument | None, operator: Operator | None) -> None:
        if schema is None or operator is None or sorts.fits_schema(sort, schema.kind, schema.optional):
            return
        kind = schema.kind + (" or none" if schema.optional else "")
        assert sort is not None
        self.problems.report(
            f"`{schema.name}` of {operator.name} is {kind}, never {sorts.describe(sort)}", span, operator.schema
        )

    def _capture(self, pattern: tree.Capture, schema: Argument | None) -> Bind:
        if pattern.name in self.bound and pattern.type is not None and self.bound[pattern.name] is None:
            pass  # a later occurrence may say more
        sort = None
        if pattern.type is not None:
            sort = self._check_type(pattern.type)
        elif schema is not None and not schema.optional:
            sort = _SORT_OF_SCHEMA.get(schema.kind, "list" if schema.kind.startswith("List[") else None)
        if self.bound.get(pattern.name) is None:
            self.bound[pattern.name] = sort
        return Bind(pattern.name, pattern.type, pattern.span)

    def _check_type(self, kind: tree.Type) -> str | None:
        """Report what is wrong with an ascribed type; returns the sort of what it binds."""
        if kind.modifier == "parameter":
            self.problems.report("`parameter` is for test lines; in patterns parameters are `const`", kind.span)
        if kind.modifier == "static":
            self.problems.report(
                "`static` is for layer declarations, not for patterns",
                kind.span,
                "that a number must be known follows from the layer it is passed to; to test it: `when is_known(n)`",
            )
        if kind.element is not None:
            self._check_type(kind.element)
            return None if kind.optional else "list"
        if kind.items is not None:
            self.problems.report("no argument of an op is a tuple", kind.span, "lists are written `[int]`")
            return None
        known = set(dtypes()) | set(dtype_classes()) | (SORTS - {"weights", "axes"})
        for name in kind.names:
            if name not in known:
                near = nearest(name, known)
                self.problems.report(
                    f"unknown type `{name}`",
                    kind.span,
                    f"did you mean `{near}`?" if near else f"types are {', '.join(sorted(known))}",
                )
        for dim in kind.dims or ():
            if dim.name is not None:
                self.bound.setdefault(dim.name, "int")
                self._dims.add(dim.name)
        tensor = kind.dims is not None or all(
            name in dtype_classes() or (name in dtypes() and name != "bool") for name in kind.names
        )
        if kind.dims is not None and any(name in SORTS - {"bool"} for name in kind.names):
            self.problems.report(f"`{sorts.show(kind)}` has a shape, but is not a tensor", kind.span)
        if kind.modifier == "const" and not tensor:
            self.problems.report("`const` applies only to tensors", kind.span)
        if kind.optional:
            return None
        if tensor:
            return "tensor"
        return kind.names[0] if len(kind.names) == 1 and kind.names[0] in _SORT_OF_TYPE else None

    def _upper(self, pattern: tree.Upper, schema: Argument | None, operator: Operator | None) -> ArgumentPattern | None:
        name = pattern.name
        if name in self.family:
            self.used.add(name)
            value = self.family[name]
            if isinstance(value, EnumToken | OpName):
                self.problems.report(
                    f"`{name}` is {value} here, which no argument of an op can be",
                    pattern.span,
                    f"to match an op write `{name}(..)`" if isinstance(value, OpName) else None,
                )
                return None
            return self._literal(value, pattern.span, schema, operator)
        if name in self._dims:
            return Bind(name, None, pattern.span)
        self.problems.report(
            f"`{name}` is neither a family variable nor a dim bound before",
            pattern.span,
            "captures are lower case; a family variable is bound by `for`",
        )
        return None

    def _alternatives(
        self, pattern: tree.Alternatives, schema: Argument | None, operator: Operator | None
    ) -> OneOf | Anything:
        """Each side by itself: what a name is on one side, it need not be on another."""
        before = dict(self.bound)
        after: dict[str, str | None] = dict(before)
        sides: list[ArgumentPattern] = []
        for item in pattern.items:
            self.bound = dict(before)
            side = self._argument(item.pattern, schema, operator)
            for name, sort in self.bound.items():
                after[name] = sort if after.get(name, sort) == sort else None
            if side is not None:
                sides.append(side)
        self.bound = after
        names = tuple(item.name for item in pattern.items)
        self.flags.update((item.name, item.span) for item in pattern.items if item.name is not None)
        return OneOf(tuple(sides), names, pattern.span) if len(sides) == len(names) else Anything(pattern.span)

    def _list(self, pattern: tree.ListPattern, schema: Argument | None, operator: Operator | None) -> ListMatch:
        element = None
        if schema is not None and schema.kind.startswith("List["):
            kind = schema.kind[len("List[") : -1]
            optional = kind.startswith("Optional[")
            kind = kind[len("Optional[") : -1] if optional else kind
            element = Argument(schema.name, kind, optional, False, ..., schema.is_dim)
        before: list[ArgumentPattern] = []
        after: list[ArgumentPattern] = []
        rest: tree.Rest | None = None
        for item in pattern.items:
            if isinstance(item, tree.Rest):
                rest = item
                if item.name is not None:
                    self.bound[item.name] = "list"
                continue
            resolved = self._argument(item, element, operator)
            if resolved is not None:
                (before if rest is None else after).append(resolved)
        return ListMatch(
            tuple(before), rest is not None, None if rest is None else rest.name, tuple(after), pattern.span
        )


_SORT_OF_TYPE = frozenset({"int", "float", "str", "dtype", "graph"})
_SORT_OF_SCHEMA = {"Tensor": None, "int": "int", "float": "float", "str": "str", "bool": "bool"}


def _never_canonical(argument: Argument) -> bool:
    default = argument.default
    if argument.is_dim:
        return any(type(dim) is int and dim < 0 for dim in (default if isinstance(default, tuple) else (default,)))
    return argument.name == "stride" and default == ()


def _plain(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _outputs(count: int) -> str:
    return "one output" if count == 1 else f"{count} outputs"


def find_operator(
    name: str, span: Span, problems: Problems, ops: set[str], unloaded: set[str], other_torch: bool = False
) -> Operator | None:
    """Look an op up; one that does not exist is a mistake, unless nothing of its namespace is loaded.

    Args:
        other_torch: the rule is for another PyTorch than the installed one: no op is a mistake.
    """
    ops.add(name)
    operator = operators.find(name)
    if operator is None:
        if operators.loaded(name.partition(".")[0]) and not other_torch:
            problems.report(f"there is no op `{name}`", span, operators.suggestion(name))
        else:
            unloaded.add(name)
    return operator
