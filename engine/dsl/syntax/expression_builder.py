"""From lark's parse tree to types, patterns and expressions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lark import Token

from engine.dsl import tree
from engine.dsl.checks.limits import LARGEST_NUMBER
from engine.dsl.syntax.operator_precedence import Operations
from engine.dsl.vocabulary import dtypes
from engine.errors import Diagnostic, Span

Branch = Any  # a lark Tree or Token: lark's own annotations do not narrow


class BadItem(Exception):
    """An item cannot be built; the diagnostic is already collected."""


class ExpressionBuilder:
    """Builds the nodes of one file.

    Attributes:
        diagnostics: mistakes found while building.
    """

    def __init__(self, path: str, lines: Sequence[str]) -> None:
        self.path = path
        self.lines = lines
        self.diagnostics: list[Diagnostic] = []

    # ------------------------------------------------------------------------------------ types

    def type(self, branch: Branch) -> tree.Type:
        """A type."""
        modifier, base, *more = branch.children
        optional = more[-1] is not None
        span = self.span(branch)
        word = None if modifier is None else str(modifier)
        if base.data == "list_type":
            return tree.Type(span, modifier=word, optional=optional, element=self.type(base.children[0]))
        if base.data == "tuple_type":
            items = tuple(self.type(item) for item in base.children if item is not None)
            return tree.Type(span, modifier=word, optional=optional, items=items)
        shape = next((part for part in more if getattr(part, "data", "") == "shape"), None)
        dims = None if shape is None else self.dims(shape)
        return tree.Type(span, tuple(map(str, base.children)), dims, word, optional)

    def dims(self, branch: Branch) -> tuple[tree.Dim, ...]:
        """The dims of a shape."""
        dims = tuple(map(self._dim, (dim for dim in branch.children if dim is not None)))
        if sum(dim.rest for dim in dims) > 1:
            self.report("a shape has at most one `..`", branch)
        return dims

    def _dim(self, branch: Branch) -> tree.Dim:
        span = self.span(branch)
        if branch.data == "dots":
            return tree.Dim(span, rest=True)
        first, *bounds = branch.children
        if first.type == "UNDERSCORE":
            return tree.Dim(span)
        if first.type == "INT":
            return tree.Dim(span, size=self.whole(first))
        if bounds[0] is None:
            return tree.Dim(span, str(first))
        low, high = map(self.whole, bounds)
        if low > high:
            self.report(f"the range {low}..{high} is empty", branch)
        return tree.Dim(span, str(first), range=(low, high))

    # ------------------------------------------------------------------------------------ patterns

    def pattern(self, branch: Branch) -> tree.Pattern:
        """A pattern, or an argument of one."""
        span = self.span(branch)
        match branch.data:
            case "op":
                return self._op(branch)
            case "capture" | "closed_capture":
                name, type_ = branch.children
                if type_ is None and str(name) in dtypes():
                    return tree.Literal(span, dtypes()[str(name)])
                return tree.Capture(span, str(name), None if type_ is None else self.type(type_))
            case "var":
                if str(branch.children[0]) in dtypes():
                    return tree.Literal(span, dtypes()[str(branch.children[0])])
                self.report("`is` tests an op or a literal", branch, hint="write `==` to compare two values")
                raise BadItem
            case "wildcard":
                return tree.Wildcard(span)
            case "rest":
                name = branch.children[0]
                return tree.Rest(span, None if name is None else str(name))
            case "list_pattern":
                items = tuple(self.pattern(item) for item in branch.children if item is not None)
                if sum(isinstance(item, tree.Rest) for item in items) > 1:
                    self.report("a list pattern has at most one `..`", branch)
                return tree.ListPattern(span, items)
            case "tuple_pattern":
                return tree.TuplePattern(span, tuple(map(self.pattern, branch.children)))
            case "upper":
                return tree.Upper(span, str(branch.children[0]))
            case "named":
                name, *arguments = branch.children
                given = tuple(self.pattern(argument) for argument in arguments if argument is not None)
                return tree.Named(span, str(name), given)
            case "op_name":
                return tree.Qualified(span, str(branch.children[0]))  # type: ignore[return-value]
            case "alternatives":
                return tree.Alternatives(span, tuple(map(self._alternative, branch.children)))
        return self.expr(branch)  # type: ignore[return-value]

    def _alternative(self, branch: Branch) -> tree.Alternative:
        pattern, *name = branch.children
        return tree.Alternative(self.span(branch), self.pattern(pattern), str(name[0]) if any(name) else None)

    def _op(self, branch: Branch) -> tree.OpPattern:
        shared, name, optional, arguments, projection, outputs = branch.children
        built: list[Any] = []
        for argument in arguments.children:
            if argument is None:
                continue
            if argument.data == "pattern_keyword":
                keyword, value = argument.children
                built.append(tree.Keyword(self.span(argument), str(keyword), self.pattern(value)))  # type: ignore[arg-type]
            else:
                built.append(self.pattern(argument))
        return tree.OpPattern(
            self.span(branch),
            str(name),
            tuple(built),
            shared=shared is not None,
            optional=optional is not None,
            unordered=arguments.data == "unordered",
            output=None if projection is None else self.whole(projection.children[0]),
            outputs=None
            if outputs is None
            else tuple(None if name.type == "UNDERSCORE" else str(name) for name in outputs.children),
        )

    # ------------------------------------------------------------------------------------ expressions

    def expr(self, branch: Branch) -> tree.Expr:
        """An expression."""
        return _EXPRESSIONS[branch.data](self, branch, self.span(branch))

    def arguments(self, branches: Sequence[Branch]) -> tuple[Any, ...]:
        """The arguments of a call."""
        arguments: list[Any] = []
        for branch in branches:
            if branch is None:
                continue
            span = self.span(branch)
            if branch.data == "keyword":
                arguments.append(tree.Keyword(span, str(branch.children[0]), self.expr(branch.children[1])))
            elif branch.data == "generator":
                arguments.append(self._comprehension(branch, span))
            else:
                arguments.append(self.expr(branch))
        return tuple(arguments)

    def _comprehension(self, branch: Branch, span: Span) -> tree.Comprehension:
        value, clause = branch.children
        target, source, test = clause.children
        return tree.Comprehension(
            span,
            self.expr(value),
            self.target(target),
            self.expr(source),
            None if test is None else self.expr(test),
        )

    def target(self, branch: Branch) -> tree.Target:
        """What a `let` or a comprehension binds."""
        span = self.span(branch)
        if branch.data == "target_name":
            return tree.Target(span, str(branch.children[0]))
        if branch.data == "targets":
            return tree.Target(span, None, tuple(map(self.target, branch.children)))
        inner = self.target(branch.children[0])  # listed
        items = (inner,) if inner.items is None or inner.listed or branch.children[0].data != "targets" else inner.items
        return tree.Target(span, None, items, listed=True)

    def _chain(self, branch: Branch, operator: str) -> tree.Expr:
        first, *others = map(self.expr, branch.children)
        for other in others:
            first = tree.Binary(_join(first.span, other.span), operator, first, other)
        return first

    def _call(self, branch: Branch, span: Span) -> tree.Expr:
        return tree.Call(span, self.expr(branch.children[0]), self.arguments(branch.children[1:]))

    def _slice(self, branch: Branch, span: Span) -> tree.Expr:
        value, start, stop = branch.children
        return tree.Slice(
            span,
            self.expr(value),
            None if start is None else self.expr(start),
            None if stop is None else self.expr(stop),
        )

    def _items(self, branch: Branch) -> tuple[Any, ...]:
        return tuple(self.expr(item) for item in branch.children if item is not None)

    # ------------------------------------------------------------------------------------ helpers

    def whole(self, token: Branch) -> int:
        """The number that a token writes."""
        # Python refuses to read thousands of digits, and nothing is that large.
        number = int(token) if len(token) < 40 else LARGEST_NUMBER
        if number >= LARGEST_NUMBER:
            self.report("this number is too large", token, hint="numbers have up to 64 bits")
            raise BadItem
        return number

    def span(self, branch: Branch) -> Span:
        """Where a branch stands in the file."""
        place: Any = branch if isinstance(branch, Token) else branch.meta
        try:
            return Span(self.path, place.line, place.column, place.end_line, place.end_column)
        except AttributeError:  # nothing was consumed: `[]` has its own brackets, so only a whole empty file
            return Span(self.path, 1, 1, 1, 1)

    def report(self, message: str, branch: Branch, label: str = "", hint: str | None = None) -> None:
        """Collect a mistake."""
        span = self.span(branch)
        source = self.lines[span.line - 1] if span.line <= len(self.lines) else ""
        self.diagnostics.append(Diagnostic(message, span, source, label, hint))


def _join(first: Span, last: Span) -> Span:
    return Span(first.file, first.line, first.column, last.end_line, last.end_column)


def _version(self: ExpressionBuilder, branch: Branch, span: Span) -> tree.Expr:
    name, relation, version = branch.children
    # Kept as text: as a number 10.9 would be more than 10.15.
    return tree.Binary(
        span, str(relation), tree.Name(self.span(name), str(name)), tree.Literal(self.span(version), str(version))
    )


def _constant(value: object) -> Callable[[ExpressionBuilder, Branch, Span], tree.Expr]:
    return lambda self, branch, span: tree.Literal(span, value)


def _conditional(self: ExpressionBuilder, branch: Branch, span: Span) -> tree.Expr:
    then, test, otherwise = map(self.expr, branch.children)
    return tree.Conditional(span, test, then, otherwise)


_EXPRESSIONS: dict[str, Callable[[ExpressionBuilder, Any, Span], tree.Expr]] = {
    "var": lambda b, t, s: tree.Name(s, str(t.children[0])),
    "underscore": lambda b, t, s: tree.Name(s, "_"),
    "upper": lambda b, t, s: tree.Upper(s, str(t.children[0])),
    "qualified": lambda b, t, s: tree.Qualified(s, str(t.children[0])),
    "string": lambda b, t, s: tree.Literal(s, str(t.children[0])[1:-1]),
    "integer": lambda b, t, s: tree.Literal(s, b.whole(t.children[0])),
    "minus_integer": lambda b, t, s: tree.Literal(s, -b.whole(t.children[0])),
    "float": lambda b, t, s: tree.Literal(s, float(t.children[0])),
    "minus_float": lambda b, t, s: tree.Literal(s, -float(t.children[0])),
    "approximate": lambda b, t, s: tree.Approximate(s, float(t.children[0])),
    "minus_approximate": lambda b, t, s: tree.Approximate(s, -float(t.children[0])),
    "none": _constant(None),
    "true": _constant(True),
    "false": _constant(False),
    "operations": lambda b, t, s: Operations(b, t.children).expr(),
    "call": ExpressionBuilder._call,
    "index": lambda b, t, s: tree.Index(s, b.expr(t.children[0]), b.expr(t.children[1])),
    "slice": ExpressionBuilder._slice,
    "field": lambda b, t, s: tree.Field(s, b.expr(t.children[0]), b.whole(t.children[1])),
    "need_negation": lambda b, t, s: tree.Unary(s, "not", b.expr(t.children[0])),
    "need_version": _version,
    "need": lambda b, t, s: b._chain(t, "or"),
    "need_all": lambda b, t, s: b._chain(t, "and"),
    "conditional": _conditional,
    "tuple": lambda b, t, s: tree.TupleOf(s, b._items(t)),
    "list": lambda b, t, s: tree.ListOf(s, b._items(t)),
    "list_comprehension": ExpressionBuilder._comprehension,
    "splat": lambda b, t, s: tree.Splat(s, b.expr(t.children[0])),  # type: ignore[dict-item, return-value]
}
