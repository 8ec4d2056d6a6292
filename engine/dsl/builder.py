"""From lark's parse tree to the syntax tree of :mod:`engine.dsl.tree`.

Mistakes that a grammar cannot say (two ``match`` clauses, an expression that binds nothing on the left of
``:=``) are collected; the item they are in is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lark import Token
from lark import Tree as ParseTree

from engine.dsl import tree
from engine.dsl.names import dtypes
from engine.errors import Diagnostic, Span

_Branch = Any  # ParseTree | Token: lark's own annotations do not narrow

# Clauses that a rule may have several of.
_REPEATED = frozenset({"when", "let", "needs", "over", "relax", "test", "reject"})
_CLAUSES = _REPEATED | {"match", "emit", "decreases"}


class _Bad(Exception):
    """An item cannot be built; the diagnostic is already collected."""


class Builder:
    """Builds the nodes of one file.

    Attributes:
        diagnostics: mistakes found while building.
    """

    def __init__(self, path: str, lines: Sequence[str]) -> None:
        self.path = path
        self.lines = lines
        self.diagnostics: list[Diagnostic] = []

    # ------------------------------------------------------------------------------------ items

    def item(self, branch: _Branch) -> tree.RuleItem | tree.Macro | tree.Extern | tree.LayerItem | None:
        """A rule, macro, extern or layer; None if it has a mistake."""
        try:
            return getattr(self, f"_{branch.data}")(branch)  # type: ignore[no-any-return]
        except _Bad:
            return None

    def _rule(self, branch: _Branch) -> tree.RuleItem:
        kind, name, family, doc, *clauses = branch.children
        found: dict[str, list[_Branch]] = {}
        for clause in clauses:
            found.setdefault(clause.data, []).append(clause)
        bad = False
        for word in ("match", "emit", "decreases"):
            for clause in found.get(word, ())[1:]:
                self.report(f"rule `{name}` has two `{word}` clauses", clause, "the second one")
                bad = True
        for word in ("match", "emit"):
            if word not in found:
                self.report(f"rule `{name}` has no `{word}` clause", name, hint=_MISSING_CLAUSE[word])
                bad = True
        if bad:
            raise _Bad
        steps: list[tree.Let | tree.Guard] = []
        for clause in clauses:
            if clause.data == "let":
                target, value = clause.children
                steps.append(tree.Let(self.span(clause), self.target(target), self.expr(value)))
            elif clause.data == "when":
                steps.extend(map(self._guard, clause.children))
        return tree.RuleItem(
            span=self.span(branch),
            kind=str(kind),
            name=str(name),
            family=None if family is None else self._family(family),
            doc="" if doc is None else str(doc)[1:-1],
            match=self.pattern(found["match"][0].children[0]),
            steps=tuple(steps),
            emit=self.expr(found["emit"][0].children[0]),
            needs=tuple(self.expr(term) for clause in found.get("needs", ()) for term in clause.children),
            over=tuple(str(rule.children[0]) for clause in found.get("over", ()) for rule in clause.children),
            decreases=self.expr(found["decreases"][0].children[0]) if "decreases" in found else None,
            relax=tuple(str(word) for clause in found.get("relax", ()) for word in clause.children),
            tests=tuple(self._test(clause) for clause in clauses if clause.data in ("test", "reject")),
        )

    def _family(self, branch: _Branch) -> tree.Family:
        target, *members = branch.children
        bound = self.target(target)
        names = [bound] if bound.items is None else list(bound.items)
        for name in names:
            if name.name is None or not name.name[0].isupper():
                self.report("a family variable is upper case", target, hint="for (OP, E) in (aten.add.Tensor, SUM), ..")
                raise _Bad
        rows = []
        for member in members:
            value = self.expr(member)
            row = value.items if isinstance(value, tree.TupleOf) and len(names) > 1 else (value,)
            if len(row) != len(names):
                self.report(f"the family has {len(names)} variables, this member {len(row)} values", member)
                raise _Bad
            rows.append(row)
        return tree.Family(self.span(branch), tuple(str(name.name) for name in names), tuple(rows))

    def _guard(self, branch: _Branch) -> tree.Guard:
        first, second = branch.children
        if second is None:
            return tree.Guard(self.span(branch), self.expr(first))
        return tree.Guard(self.span(branch), self.expr(second), self._as_target(self.expr(first), first))

    def _as_target(self, expr: tree.Expr, branch: _Branch) -> tree.Target:
        if isinstance(expr, tree.Name | tree.Upper):
            return tree.Target(expr.span, expr.name)
        if isinstance(expr, tree.TupleOf | tree.ListOf):
            items = tuple(self._as_target(item, branch) for item in expr.items)  # type: ignore[arg-type]
            return tree.Target(expr.span, None, items, listed=isinstance(expr, tree.ListOf))
        self.report(
            "`:=` binds names, tuples or lists of names", branch, hint="when [(axis, index)] := present(indices)"
        )
        raise _Bad

    def _test(self, branch: _Branch) -> tree.Test:
        return tree.Test(self.span(branch), tuple(map(self._binding, branch.children)), branch.data == "reject")

    def _binding(self, branch: _Branch) -> tree.Binding:
        name, value = branch.children
        built = self.expr(value) if branch.data == "bind_value" else self._spec(value)
        return tree.Binding(self.span(branch), str(name), built)

    def _spec(self, branch: _Branch) -> Any:
        span = self.span(branch)
        if branch.data == "none":
            return tree.Literal(span, None)
        if branch.data == "list_spec":
            return tree.ListSpec(span, tuple(self._spec(item) for item in branch.children if item is not None))
        modifier, dtype, shape, below = branch.children
        if modifier == "static":
            self.report("a test input is `const` or not, never `static`", modifier)
        return tree.TensorSpec(
            span, str(dtype), self._dims(shape), modifier is not None, None if below is None else int(below)
        )

    def _macro(self, branch: _Branch) -> tree.Macro:
        name, *parameters, body = branch.children
        return tree.Macro(self.span(branch), str(name), self._parameters(parameters), self.expr(body))

    def _extern(self, branch: _Branch) -> tree.Extern:
        name, *parameters, result = branch.children
        return tree.Extern(self.span(branch), str(name), self._parameters(parameters), self.type(result))

    def _parameters(self, branches: Sequence[_Branch]) -> tuple[tree.Parameter, ...]:
        return tuple(
            tree.Parameter(
                self.span(branch),
                str(branch.children[0]),
                None if branch.children[1] is None else self.type(branch.children[1]),
                None if branch.children[2] is None else self.expr(branch.children[2]),
            )
            for branch in branches
            if branch is not None
        )

    def _layer(self, branch: _Branch) -> tree.LayerItem:
        name, *parameters, outputs, gives, via, since, until = branch.children
        built: list[tree.Parameter] = []
        attribute = False
        for parameter in parameters:
            if isinstance(parameter, Token):
                if attribute:
                    self.report("one `*` parts inputs from attributes, this is the second", parameter)
                attribute = True
                continue
            own, type_, default, alias, slot, wildcard = parameter.children
            built.append(
                tree.Parameter(
                    self.span(parameter),
                    str(own),
                    self.type(type_),
                    None if default is None else self.expr(default),
                    attribute,
                    None if alias is None else str(alias),
                    None if slot is None else int(slot),
                    wildcard is not None,
                )
            )
        results = tuple(map(self.type, outputs.children))
        if len(results) == 1 and results[0].items == ():
            results = ()  # `-> ()`
        given: list[tuple[tree.Expr, tree.Expr] | None] = [None] * len(results)
        if gives is not None:
            if len(gives.children) != len(results):
                self.report(f"`gives` has {len(gives.children)} entries for {len(results)} outputs", gives)
                raise _Bad
            given = [
                None if entry.data == "silent" else (self.expr(entry.children[0]), self.expr(entry.children[1]))
                for entry in gives.children
            ]
        method = via.children[0]
        call = tree.Call(self.span(via), tree.Name(self.span(method), str(method)), self._arguments(via.children[1:]))
        return tree.LayerItem(
            self.span(branch),
            str(name),
            tuple(built),
            results,
            tuple(given),
            call,
            None if since is None else str(since.children[0]),
            None if until is None else str(until.children[0]),
        )

    # ------------------------------------------------------------------------------------ types

    def type(self, branch: _Branch) -> tree.Type:
        modifier, base, *more = branch.children
        optional = more[-1] is not None
        span = self.span(branch)
        word = None if modifier is None else str(modifier)
        if base.data == "list_type":
            return tree.Type(span, modifier=word, optional=optional, element=self.type(base.children[0]))
        if base.data == "tuple_type":
            items = tuple(self.type(item) for item in base.children if item is not None)
            return tree.Type(span, modifier=word, optional=optional, items=items)
        shape = more[0]
        dims = None if shape is None else self._dims(shape)
        return tree.Type(span, tuple(map(str, base.children)), dims, word, optional)

    def _dims(self, branch: _Branch) -> tuple[tree.Dim, ...]:
        dims = tuple(map(self._dim, (dim for dim in branch.children if dim is not None)))
        if sum(dim.rest for dim in dims) > 1:
            self.report("a shape has at most one `..`", branch)
        return dims

    def _dim(self, branch: _Branch) -> tree.Dim:
        span = self.span(branch)
        if branch.data == "dots":
            return tree.Dim(span, rest=True)
        first, *bounds = branch.children
        if first.type == "UNDERSCORE":
            return tree.Dim(span)
        if first.type == "INT":
            return tree.Dim(span, size=int(first))
        if bounds[0] is None:
            return tree.Dim(span, str(first))
        low, high = map(int, bounds)
        if low > high:
            self.report(f"the range {low}..{high} is empty", branch)
        return tree.Dim(span, str(first), range=(low, high))

    # ------------------------------------------------------------------------------------ patterns

    def pattern(self, branch: _Branch) -> tree.Pattern:
        span = self.span(branch)
        match branch.data:
            case "op":
                return self._op(branch)
            case "capture":
                name, type_ = branch.children
                if type_ is None and str(name) in dtypes():
                    return tree.Literal(span, dtypes()[str(name)])
                return tree.Capture(span, str(name), None if type_ is None else self.type(type_))
            case "var":
                if str(branch.children[0]) in dtypes():
                    return tree.Literal(span, dtypes()[str(branch.children[0])])
                self.report("`is` tests an op or a literal", branch, hint="write `==` to compare two values")
                raise _Bad
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
        return self.expr(branch)  # type: ignore[return-value]

    def _op(self, branch: _Branch) -> tree.OpPattern:
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
            output=None if projection is None else int(projection.children[0]),
            outputs=None
            if outputs is None
            else tuple(None if name.type == "UNDERSCORE" else str(name) for name in outputs.children),
        )

    # ------------------------------------------------------------------------------------ expressions

    def expr(self, branch: _Branch) -> tree.Expr:
        return _EXPRESSIONS[branch.data](self, branch, self.span(branch))

    def _arguments(self, branches: Sequence[_Branch]) -> tuple[Any, ...]:
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

    def _comprehension(self, branch: _Branch, span: Span) -> tree.Comprehension:
        value, clause = branch.children
        target, source, test = clause.children
        return tree.Comprehension(
            span,
            self.expr(value),
            self.target(target),
            self.expr(source),
            None if test is None else self.expr(test),
        )

    def target(self, branch: _Branch) -> tree.Target:
        span = self.span(branch)
        if branch.data == "target_name":
            return tree.Target(span, str(branch.children[0]))
        if branch.data == "targets":
            return tree.Target(span, None, tuple(map(self.target, branch.children)))
        inner = self.target(branch.children[0])  # listed
        items = (inner,) if inner.items is None or inner.listed or branch.children[0].data != "targets" else inner.items
        return tree.Target(span, None, items, listed=True)

    def _chain(self, branch: _Branch, operator: str) -> tree.Expr:
        first, *others = map(self.expr, branch.children)
        for other in others:
            first = tree.Binary(_join(first.span, other.span), operator, first, other)
        return first

    def _minus(self, branch: _Branch, span: Span) -> tree.Expr:
        value = self.expr(branch.children[0])
        if isinstance(value, tree.Literal) and type(value.value) in (int, float):
            return tree.Literal(span, -value.value)  # type: ignore[operator]
        return tree.Unary(span, "-", value)

    def _call(self, branch: _Branch, span: Span) -> tree.Expr:
        return tree.Call(span, self.expr(branch.children[0]), self._arguments(branch.children[1:]))

    def _slice(self, branch: _Branch, span: Span) -> tree.Expr:
        value, start, stop = branch.children
        return tree.Slice(
            span,
            self.expr(value),
            None if start is None else self.expr(start),
            None if stop is None else self.expr(stop),
        )

    def _items(self, branch: _Branch) -> tuple[Any, ...]:
        return tuple(self.expr(item) for item in branch.children if item is not None)

    # ------------------------------------------------------------------------------------ helpers

    def span(self, branch: _Branch) -> Span:
        place = branch if isinstance(branch, Token) else branch.meta
        try:
            return Span(self.path, place.line, place.column, place.end_line, place.end_column)
        except AttributeError:  # nothing was consumed: `[]` has its own brackets, so only a whole empty file
            return Span(self.path, 1, 1, 1, 1)

    def report(self, message: str, branch: _Branch, label: str = "", hint: str | None = None) -> None:
        span = self.span(branch)
        source = self.lines[span.line - 1] if span.line <= len(self.lines) else ""
        self.diagnostics.append(Diagnostic(message, span, source, label, hint))


_MISSING_CLAUSE = {
    "match": "say what the rule rewrites, e.g. `match aten.relu(x)`",
    "emit": "say what the rule gives instead, e.g. `emit trt.activation(x, type=RELU)`",
}


def _join(first: Span, last: Span) -> Span:
    return Span(first.file, first.line, first.column, last.end_line, last.end_column)


def _binary(self: Builder, branch: _Branch, span: Span) -> tree.Expr:
    left, operator, right = branch.children
    return tree.Binary(span, str(operator), self.expr(left), self.expr(right))


def _version(self: Builder, branch: _Branch, span: Span) -> tree.Expr:
    name, relation, version = branch.children
    # Kept as text: as a number 10.9 would be more than 10.15.
    return tree.Binary(
        span, str(relation), tree.Name(self.span(name), str(name)), tree.Literal(self.span(version), str(version))
    )


def _is(negated: bool) -> Callable[[Builder, _Branch, Span], tree.Expr]:
    def build(self: Builder, branch: _Branch, span: Span) -> tree.Expr:
        value, pattern = branch.children
        return tree.Is(span, self.expr(value), self.pattern(pattern), negated)

    return build


def _pair(operator: str) -> Callable[[Builder, _Branch, Span], tree.Expr]:
    def build(self: Builder, branch: _Branch, span: Span) -> tree.Expr:
        return tree.Binary(span, operator, self.expr(branch.children[0]), self.expr(branch.children[1]))

    return build


def _constant(value: object) -> Callable[[Builder, _Branch, Span], tree.Expr]:
    return lambda self, branch, span: tree.Literal(span, value)


def _conditional(self: Builder, branch: _Branch, span: Span) -> tree.Expr:
    then, test, otherwise = map(self.expr, branch.children)
    return tree.Conditional(span, test, then, otherwise)


_EXPRESSIONS: dict[str, Callable[[Builder, Any, Span], tree.Expr]] = {
    "var": lambda b, t, s: tree.Name(s, str(t.children[0])),
    "underscore": lambda b, t, s: tree.Name(s, "_"),
    "upper": lambda b, t, s: tree.Upper(s, str(t.children[0])),
    "qualified": lambda b, t, s: tree.Qualified(s, str(t.children[0])),
    "string": lambda b, t, s: tree.Literal(s, str(t.children[0])[1:-1]),
    "integer": lambda b, t, s: tree.Literal(s, int(t.children[0])),
    "minus_integer": lambda b, t, s: tree.Literal(s, -int(t.children[0])),
    "float": lambda b, t, s: tree.Literal(s, float(t.children[0])),
    "minus_float": lambda b, t, s: tree.Literal(s, -float(t.children[0])),
    "approximate": lambda b, t, s: tree.Approximate(s, float(t.children[0])),
    "minus_approximate": lambda b, t, s: tree.Approximate(s, -float(t.children[0])),
    "none": _constant(None),
    "true": _constant(True),
    "false": _constant(False),
    "call": Builder._call,
    "index": lambda b, t, s: tree.Index(s, b.expr(t.children[0]), b.expr(t.children[1])),
    "slice": Builder._slice,
    "field": lambda b, t, s: tree.Field(s, b.expr(t.children[0]), int(t.children[1])),
    "minus": Builder._minus,
    "negation": lambda b, t, s: tree.Unary(s, "not", b.expr(t.children[0])),
    "need_not": lambda b, t, s: tree.Unary(s, "not", b.expr(t.children[0])),
    "binary": _binary,
    "comparison": _binary,
    "need_version": _version,
    "contains": _pair("in"),
    "contains_not": _pair("not in"),
    "is_": _is(False),
    "is_not": _is(True),
    "disjunction": lambda b, t, s: b._chain(t, "or"),
    "need": lambda b, t, s: b._chain(t, "or"),
    "conjunction": lambda b, t, s: b._chain(t, "and"),
    "need_all": lambda b, t, s: b._chain(t, "and"),
    "conditional": _conditional,
    "tuple": lambda b, t, s: tree.TupleOf(s, b._items(t)),
    "list": lambda b, t, s: tree.ListOf(s, b._items(t)),
    "list_comprehension": Builder._comprehension,
    "splat": lambda b, t, s: tree.Splat(s, b.expr(t.children[0])),  # type: ignore[dict-item, return-value]
}
