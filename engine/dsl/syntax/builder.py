"""From lark's parse tree to the syntax tree of :mod:`engine.dsl.tree`.

Mistakes that a grammar cannot say (two ``match`` clauses, an expression that binds nothing on the left of
``:=``) are collected; the item they are in is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lark import Token

from engine.dsl import tree
from engine.dsl.checks.limits import DEEPEST, depth
from engine.dsl.syntax.expression_builder import BadItem, Branch, ExpressionBuilder
from engine.dsl.syntax.one_line import one_line
from engine.errors import Span


class Builder(ExpressionBuilder):
    """Builds the items of one file."""

    # ------------------------------------------------------------------------------------ items

    def item(
        self, branch: Branch
    ) -> tree.RuleItem | tree.Macro | tree.PatternItem | tree.Extern | tree.LayerItem | None:
        """A rule, macro, named pattern, extern or layer; None if it has a mistake."""
        deep = False
        try:
            built = getattr(self, f"_{branch.data}")(branch)
            deep = depth(built) > DEEPEST
        except BadItem:
            return None
        except RecursionError:
            deep = True
        if deep:
            name = next(item for item in branch.children if isinstance(item, Token) and item.type != "KIND")
            hint = "give parts of it names, by `let` or macros; a sum of a list is `sum([..])`"
            self.report(f"`{name}` nests more than {DEEPEST} levels", name, hint=hint)
            return None
        return built  # type: ignore[no-any-return]

    def _rule(self, branch: Branch) -> tree.RuleItem:
        kind, name, family, doc, *clauses = branch.children
        found: dict[str, list[Branch]] = {}
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
            raise BadItem
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
            doc="" if doc is None else " ".join(" ".join(str(part)[1:-1] for part in doc.children).split()),
            match=self.pattern(found["match"][0].children[0]),
            steps=tuple(steps),
            emit=self.expr(found["emit"][0].children[0]),
            needs=tuple(self.expr(term) for clause in found.get("needs", ()) for term in clause.children),
            over=tuple(str(rule.children[0]) for clause in found.get("over", ()) for rule in clause.children),
            decreases=self.expr(found["decreases"][0].children[0]) if "decreases" in found else None,
            relax=tuple(str(word) for clause in found.get("relax", ()) for word in clause.children),
            tests=tuple(self._test(clause) for clause in clauses if clause.data in ("test", "reject")),
        )

    def _family(self, branch: Branch) -> tree.Family:
        target, *members = branch.children
        bound = self.target(target)
        names = [bound] if bound.items is None else list(bound.items)
        for name in names:
            if name.name is None or not name.name[0].isupper():
                self.report("a family variable is upper case", target, hint="for (OP, E) in (aten.add.Tensor, SUM), ..")
                raise BadItem
        rows = []
        for member in members:
            value = self.expr(member)
            row = value.items if isinstance(value, tree.TupleOf) and len(names) > 1 else (value,)
            if len(row) != len(names):
                self.report(f"the family has {len(names)} variables, this member {len(row)} values", member)
                raise BadItem
            rows.append(row)
        return tree.Family(self.span(branch), tuple(str(name.name) for name in names), tuple(rows))

    def _guard(self, branch: Branch) -> tree.Guard:
        first, second = branch.children
        span = self.span(branch)
        if second is None:
            return tree.Guard(span, self.expr(first), text=self._written(span))
        return tree.Guard(span, self.expr(second), self._as_target(self.expr(first), first), self._written(span))

    def _written(self, span: Span) -> str:
        """The text of a stretch of the file, on one line, without comments."""
        lines = list(self.lines[span.line - 1 : span.end_line])
        lines[-1] = lines[-1][: span.end_column - 1]
        lines[0] = lines[0][span.column - 1 :]
        return one_line("\n".join(lines))

    def _as_target(self, expr: tree.Expr, branch: Branch) -> tree.Target:
        if isinstance(expr, tree.Name | tree.Upper):
            return tree.Target(expr.span, expr.name)
        if isinstance(expr, tree.TupleOf | tree.ListOf):
            items = tuple(self._as_target(item, branch) for item in expr.items)  # type: ignore[arg-type]
            return tree.Target(expr.span, None, items, listed=isinstance(expr, tree.ListOf))
        self.report(
            "`:=` binds names, tuples or lists of names", branch, hint="when [(axis, index)] := present(indices)"
        )
        raise BadItem

    def _test(self, branch: Branch) -> tree.Test:
        return tree.Test(self.span(branch), tuple(map(self._binding, branch.children)), branch.data == "reject")

    def _binding(self, branch: Branch) -> tree.Binding:
        name, value = branch.children
        built = self.expr(value) if branch.data == "bind_value" else self._spec(value)
        return tree.Binding(self.span(branch), str(name), built)

    def _spec(self, branch: Branch) -> Any:
        span = self.span(branch)
        if branch.data == "none":
            return tree.Literal(span, None)
        if branch.data == "integer":
            return tree.Literal(span, self.whole(branch.children[0]))
        if branch.data == "list_spec":
            return tree.ListSpec(span, tuple(self._spec(item) for item in branch.children if item is not None))
        modifier, form, dtype, shape, below = branch.children
        if modifier == "static":
            self.report("a test input is `const` or not, never `static`", modifier)
        dims, least = self.dims(shape), None if below is None else self.whole(below)
        spec = tree.TensorSpec(span, str(dtype), dims, modifier is not None, least)
        if modifier != "parameter" and form is None:
            return spec
        if modifier is not None and form == "written":
            self.report("what is `written` is an input, and no constant", form)
        return tree.OperandSpec(
            span,
            spec.dtype,
            dims,
            spec.const,
            least,
            parameter=modifier == "parameter",
            expanded=form == "expanded",
            written=form == "written",
        )

    def _macro(self, branch: Branch) -> tree.Macro:
        name, *parameters, body = branch.children
        return tree.Macro(self.span(branch), str(name), self._parameters(parameters), self.expr(body))

    def _pattern_item(self, branch: Branch) -> tree.PatternItem:
        name, *parameters, body = branch.children
        given = tuple(tree.Parameter(self.span(own), str(own)) for own in parameters if own is not None)
        return tree.PatternItem(self.span(branch), str(name), given, self.pattern(body))

    def _extern(self, branch: Branch) -> tree.Extern:
        name, *parameters, result = branch.children
        return tree.Extern(self.span(branch), str(name), self._parameters(parameters), self.type(result))

    def _parameters(self, branches: Sequence[Branch]) -> tuple[tree.Parameter, ...]:
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

    def _layer(self, branch: Branch) -> tree.LayerItem:
        name, *parameters, outputs, gives, unless, apart, accumulates, via, since, until = branch.children
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
                    None if slot is None else self.whole(slot),
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
                raise BadItem
            given = [
                None if entry.data == "silent" else (self.expr(entry.children[0]), self.expr(entry.children[1]))
                for entry in gives.children
            ]
        method = via.children[0]
        call = tree.Call(self.span(via), tree.Name(self.span(method), str(method)), self.arguments(via.children[1:]))
        return tree.LayerItem(
            self.span(branch),
            str(name),
            tuple(built),
            results,
            tuple(given),
            call,
            None if unless is None else self.expr(unless.children[0]),
            None if apart is None else self._apart(apart),
            None if accumulates is None else self.expr(accumulates.children[0]),
            None if since is None else str(since.children[0]),
            None if until is None else str(until.children[0]),
        )

    def _apart(self, branch: Branch) -> tree.Apart:
        name, instead, condition, *layers = branch.children
        made = tuple(
            tree.MadeBy(
                self.span(layer),
                str(layer.children[0]),
                tuple(tree.Upper(self.span(part), str(part)) for part in layer.children[2:] if part is not None),
                layer.children[1] is not None,
            )
            for layer in layers
        )
        return tree.Apart(self.span(branch), str(name), self.expr(instead), self.expr(condition), made)


_MISSING_CLAUSE = {
    "match": "say what the rule rewrites, e.g. `match aten.relu(x)`",
    "emit": "say what the rule emits instead, e.g. `emit trt.activation(x, type=RELU)`",
}
