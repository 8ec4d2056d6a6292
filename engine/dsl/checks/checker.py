"""From syntax trees to checked rules, with every mistake at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from engine.dsl import operators, tree
from engine.dsl.checked import Checked
from engine.dsl.checks import needs, sorts, termination
from engine.dsl.checks import rule_precedence as precedence
from engine.dsl.checks.declarations import define
from engine.dsl.checks.definitions import Effects
from engine.dsl.checks.expression_checker import ExpressionChecker
from engine.dsl.checks.limits import (
    DEEPEST_EVALUATION,
    LARGEST_EXPANSION,
    MOST_MEMBERS,
    MOST_PARTS,
    MOST_ROOTS,
    MOST_RULES,
    Budget,
    Exhausted,
    Extent,
    Extents,
)
from engine.dsl.checks.line_checker import check_line
from engine.dsl.checks.patterns import alternatives
from engine.dsl.checks.patterns.pattern_resolver import PatternResolver, find_operator
from engine.dsl.checks.patterns.roots import unconnected
from engine.dsl.diagnostics import Problems, TooMany
from engine.dsl.expansion import expand
from engine.dsl.forms import beyond_limits
from engine.dsl.rule import EnumToken, OpName, Rule
from engine.dsl.vocabulary import RELAXATIONS, constants, dtypes, suggestion
from engine.errors import Diagnostic, Span
from engine.tensorrt import Capabilities


def check(
    files: Sequence[tuple[tree.File, int]],
    capabilities: Capabilities | None,
    hosts: Mapping[str, Callable[..., Any]],
    syntax_errors: Sequence[Diagnostic] = (),
    base: Checked | None = None,
) -> Checked:
    """Check parsed files, each with its level (0 built-in, 1 of a package, 2 of a user).

    Args:
        capabilities: of the TensorRT to convert for; None: of none in particular, so nothing is inactive.
        hosts: registered host functions by full name.
        syntax_errors: mistakes that the parser found in these files.
        base: built-in rules that were checked before; of their files only the texts are given.

    Raises:
        RuleError: with every mistake.
    """
    problems = Problems({file.path: file.text for file, _ in files})
    try:
        problems.add(syntax_errors)
        return _Checker(files, capabilities, hosts, problems, base).run()
    except (TooMany, Exhausted):
        problems.raise_if_any()
        raise


class _Checker:
    def __init__(
        self,
        files: Sequence[tuple[tree.File, int]],
        capabilities: Capabilities | None,
        hosts: Mapping[str, Callable[..., Any]],
        problems: Problems,
        base: Checked | None = None,
    ) -> None:
        self.base = base or Checked((), (), {}, {}, {}, ())
        self.files = files
        self.capabilities = capabilities
        self.problems = problems
        self.budget = Budget(problems)
        self.definitions = define([file for file, _ in files], capabilities, hosts, self.problems, base)
        self.emitted: dict[tuple[str, str], Mapping[str, Span]] = {}  # by kind and id
        self.reasons: dict[tuple[str, str], str] = {}
        self.foreign: dict[str, str | None] = dict(self.base.foreign)
        self.emitted.update((("lower", name), ops) for name, ops in self.base.emitted.items())
        macros = self.definitions.macros
        calls = {name: [*e.macros] for name, e in self.definitions.effects.items() if name not in self.base.macros}
        self.extents = Extents(macros, calls, self.base.macros)
        for name, extent in [*self.extents.of_macros.items()]:
            self._check_extent(f"macro `{name}`", extent, macros[name].span)

    def run(self) -> Checked:
        rules: list[Rule] = []
        for file, level in self.files:
            for item in file.rules:
                rules.extend(self._rules(file, item, level))
                if len(rules) + len(self.base.rules) > MOST_RULES:
                    self.problems.report(f"there are more than {MOST_RULES} rules", item.span, "load fewer at once")
                    raise Exhausted
        self._check_names(rules)
        self._check_over(rules)
        given = [*self.base.rules, *(rule for rule, _ in self.base.inactive)]
        termination.check(given, rules, self.emitted, self.problems)
        active = [rule for rule in rules if _key(rule) not in self.reasons]
        ordered, overridden, before = precedence.order(
            active, self.problems, self.budget, given=self.base.rules, known=self.base.before
        )
        self.problems.raise_if_any()
        inactive = ((rule, self.reasons[_key(rule)]) for rule in rules if _key(rule) in self.reasons)
        whole = all(level == 0 for _, level in self.files)
        return Checked(
            tuple(ordered),
            (*self.base.inactive, *inactive),
            self.definitions.layers.active,
            self.definitions.macros,
            self.definitions.externs,
            tuple(overridden),
            self.foreign,
            self.definitions.patterns.items,
            {name: ops for (kind, name), ops in self.emitted.items() if kind == "lower"} if whole else {},
            self.definitions.layers.absent(),
            tuple(before) if whole else (),
            tuple(self.definitions.layers.declared) if whole else (),
        )

    # ------------------------------------------------------------------------------------ rules

    def _rules(self, file: tree.File, item: tree.RuleItem, level: int) -> Iterator[Rule]:
        if item.family is not None and len(item.family.members) > MOST_MEMBERS:
            self.problems.report(f"a family has at most {MOST_MEMBERS} members", item.family.span)
            return
        other_torch = needs.missing_torch(item.needs) is not None
        families = self._families(item, other_torch)
        for term in item.needs:
            features = self.definitions.layers.features() | (self.capabilities.features if self.capabilities else set())
            needs.check(term, features, self.problems)
        for word in item.relax:
            if word not in RELAXATIONS:
                hint = suggestion(word, RELAXATIONS, f"there are {', '.join(RELAXATIONS)}")
                self.problems.report(f"`relax {word}` is unknown", item.span, hint)
        if item.kind == "convert" and item.decreases is not None:
            self.problems.report("`decreases` is for `lower` rules; `convert` is one pass", item.decreases.span)
        used: set[str] = set()
        identifier = f"{file.stem}.{item.name}"
        text = _text(file.text, item.span)
        match = self.definitions.patterns.written_out(item.match, identifier)
        if match is None:
            return
        item = replace(item, match=match)
        patterns = []
        for family in families:
            resolver = PatternResolver(family, self.problems, other_torch)
            roots = resolver.roots(match)
            if beyond := beyond_limits(identifier, roots):
                for diagnostic in beyond:
                    self.problems.report(diagnostic.message, diagnostic.span or match.span, diagnostic.hint)
                return
            patterns.append((resolver, roots))
            used |= resolver.used
        checker = ExpressionChecker(self.definitions, self.problems, item.kind, families, other_torch)
        self._check_body(item, checker, patterns[0][0])
        used |= checker.used
        for name in item.family.names if item.family else ():
            if name not in used:
                self.problems.report(f"the family variable `{name}` is not used", item.family.span)  # type: ignore[union-attr]
        direct, total = checker.effects, self.definitions.closure(checker.effects)
        self._check_extent(f"rule `{item.name}`", self.extents.of_rule(item), item.span)
        self._check_phase(item, direct)
        for index, (family, (resolver, roots)) in enumerate(zip(families, patterns, strict=True)):
            if not roots:
                continue
            rule = Rule(
                f"{identifier}[{index}]" if item.family else identifier,
                item.kind,
                level,
                item.doc,
                roots,
                item.steps,
                item.emit,
                item.needs,
                item.over,
                item.decreases,
                item.relax,
                item.tests,
                family,
                item.span,
                text=text,
            )
            self._note(rule, item, direct, total, resolver)
            if self._check_pattern(rule, item):
                yield rule

    def _check_extent(self, what: str, extent: Extent, span: Span) -> None:
        if extent.size > LARGEST_EXPANSION:
            message = f"{what} has more than {LARGEST_EXPANSION} expressions once its macros are expanded"
            self.problems.report(message, span, "give a value that is used twice a name, by `let`")
        elif extent.depth > DEEPEST_EVALUATION:
            message = f"{what} nests {extent.depth} levels once its macros and names are expanded"
            self.problems.report(message, span, f"at most {DEEPEST_EVALUATION} are evaluated")

    def _check_pattern(self, rule: Rule, item: tree.RuleItem) -> bool:
        """Whether a pattern is within the limits of matching; what is wrong is reported once for a family."""
        parts = sum(1 for part in tree.walk(item.match) if not isinstance(part, tree.Dim | tree.Type))
        if parts > MOST_PARTS:
            self.problems.report(f"a pattern has at most {MOST_PARTS} parts, this has {parts}", item.span)
            return False
        if len(rule.roots) > MOST_ROOTS:
            self.problems.report(f"a pattern has at most {MOST_ROOTS} roots", item.span)
            return False
        forms = expand(rule)  # within its limits, which were looked at before the rule was made
        self.budget.spend(parts * len(forms) * len(rule.roots), item.span)
        wrong = next(filter(None, (unconnected(rule.id, form.roots) for form in forms)), [])
        for found in wrong:
            message = found.message.replace(rule.id, _base(rule))
            self.problems.report(message, found.span or item.span, found.hint)
        return not wrong

    def _families(self, item: tree.RuleItem, other_torch: bool) -> list[dict[str, object]]:
        if item.family is None:
            return [{}]
        families = []
        for member in item.family.members:
            values: dict[str, object] = {}
            for name, value in zip(item.family.names, member, strict=True):
                values[name] = self._family_value(value, other_torch)
            families.append(values)
        for name in {name for name in item.family.names if item.family.names.count(name) > 1}:
            self.problems.report(f"the family variable `{name}` is named twice", item.family.span)
        return families

    def _family_value(self, value: tree.Expr, other_torch: bool = False) -> object:
        match value:
            case tree.Literal():
                return value.value
            case tree.Upper():
                members = self.definitions.layers.enum_members()
                if members is not None and value.name not in members:
                    hint = suggestion(value.name, members)
                    self.problems.report(f"`{value.name}` is not a member of any enum of a layer", value.span, hint)
                return EnumToken(value.name)
            case tree.Qualified():
                operator = find_operator(value.name, value.span, self.problems, set(), set(), other_torch)
                return OpName(value.name if operator is None else operator.name)
            case tree.Name() if value.name in dtypes():
                return dtypes()[value.name]
            case tree.Name() if value.name in _FLOATS:
                return _FLOATS[value.name]
            case tree.Unary(operator="-", value=tree.Name(name=name)) if name in _FLOATS:
                return -_FLOATS[name]
            case tree.ListOf() | tree.TupleOf():
                return tuple(self._family_value(item, other_torch) for item in value.items)  # type: ignore[arg-type]
        self.problems.report(
            "a member of a family is a literal, an op, a dtype or an enum member",
            value.span,
            "for (OP, E) in (aten.add.Tensor, SUM)",
        )
        return None

    def _check_body(self, item: tree.RuleItem, checker: ExpressionChecker, resolver: PatternResolver) -> None:
        scope: dict[str, str | None] = {**resolver.bound, "result": None}
        for name in resolver.bound:
            if name in constants() or name == "result":
                self.problems.report(f"`{name}` is a word of the language and cannot be bound", item.match.span)
        alternatives.check(item, resolver.partial, self.problems)
        for step in item.steps:
            sort = checker.sort(step.value, scope)
            if step.target is not None:
                checker.bind(step.target, sort, scope)
            elif sort in ("tensor", "tensors", "str", "dtype", "list"):
                self.problems.report(f"a guard is true or false, but this is {sorts.describe(sort)}", step.value.span)
        sort = checker.sort(item.emit, scope)
        if sort not in (None, "tensor", "tensors", "list", "tuple"):
            self.problems.report(f"a rule emits tensors, but this is {sorts.describe(sort)}", item.emit.span)
        if isinstance(item.emit, tree.TupleOf) and isinstance(item.match, tree.TuplePattern):
            wanted, given = len(item.match.roots), len(item.emit.items)
            if wanted != given:
                self.problems.report(
                    f"the pattern has {wanted} roots, but the right side has {given} values", item.emit.span
                )
        if item.decreases is not None:
            sort = checker.sort(item.decreases, scope)
            if sort not in (None, "int", "bool"):
                self.problems.report(f"a measure is an int, but this is {sorts.describe(sort)}", item.decreases.span)
        for test in item.tests:
            check_line(test, resolver.bound, checker, self.definitions.macros, self.problems)

    def _check_phase(self, item: tree.RuleItem, direct: Effects) -> None:
        """Macros that are called must be of the rule's phase; direct calls were checked where they stand."""
        for name, effects, span in self.definitions.reached(direct):
            wrong = effects.ops if item.kind == "convert" else effects.layers
            for called, place in wrong.items():
                gives = "TensorRT layers" if item.kind == "convert" else "ops"
                self.problems.report(
                    f"a `{item.kind}` rule emits {gives}, but macro `{name}` calls {called}",
                    span,
                    None,
                    (place, "called here"),
                )
                break

    def _note(
        self, rule: Rule, item: tree.RuleItem, direct: Effects, total: Effects, resolver: PatternResolver
    ) -> None:
        """Remember what a rule emits and why it may be inactive."""
        ops = dict(total.ops)
        reason = needs.missing_torch(rule.needs)
        if item.family is not None:
            # A family's effects are those of all members; keep what this one can emit.
            value_of = partial(self._family_value, other_torch=reason is not None)
            others = {str(v) for v in _family_ops(item, value_of)} - {str(v) for v in rule.family.values()}
            named = {name for name in total.ops if name in others and not _written(item, name)}
            ops = {name: span for name, span in ops.items() if name not in named}
        self.emitted[_key(rule)] = ops
        unloaded = sorted(total.unloaded | resolver.unloaded)
        for name in {*unloaded, *resolver.ops, *ops}:
            if name.partition(".")[0] not in operators.OWN:
                operator = operators.find(name)
                self.foreign[name] = None if operator is None else operator.schema
        if reason is not None:
            self.reasons[_key(rule)] = reason
            return
        if unloaded:
            self.reasons[_key(rule)] = f"needs {', '.join(unloaded)}, which no loaded package registers"
            return
        if self.capabilities is None or self.problems:
            return
        for term in rule.needs:
            if not needs.satisfied(term, self.capabilities):
                self.reasons[_key(rule)] = (
                    f"needs {needs.show(term)}, but {needs.installed(self.capabilities)} is installed"
                )
                return
        for layer in sorted(total.layers):
            if layer in self.definitions.layers.inactive:
                self.reasons[_key(rule)] = self.definitions.layers.inactive[layer]
                return

    # ------------------------------------------------------------------------------------ sets of rules

    def _check_names(self, rules: Sequence[Rule]) -> None:
        """Report duplicate names."""
        by_name: dict[str, list[Rule]] = defaultdict(list)
        for rule in rules:
            by_name[_base(rule)].append(rule)
        for name, same in by_name.items():
            first = same[0]
            for other in same[1:]:
                # One file per family of ops and phase: `relu` may be lowered in one and converted in the other.
                apart = first.span.file != other.span.file and (first.kind == "convert") != (other.kind == "convert")
                if other.span != first.span and not apart:
                    self.problems.report(
                        f"there are two rules `{name}`", other.span, "rename one", (first.span, "the other rule")
                    )

    def _check_over(self, rules: Sequence[Rule]) -> None:
        given = (*self.base.rules, *(rule for rule, _ in self.base.inactive))
        names = {_base(rule) for rule in (*given, *rules)}
        for rule in rules:
            stem = rule.id.partition(".")[0]
            for name in rule.over:
                full = name if "." in name else f"{stem}.{name}"
                if full not in names:
                    hint = suggestion(full, names - {_base(rule)}, "name a rule of this file, or `file.rule`")
                    self.problems.report(f"`over {name}`: there is no such rule", rule.span, hint)
                elif full == _base(rule):
                    self.problems.report(f"`over {name}`: a rule does not precede itself", rule.span)


_FLOATS = {"inf": math.inf, "pi": math.pi, "nan": math.nan}


def _key(rule: Rule) -> tuple[str, str]:
    return rule.kind, rule.id


def _base(rule: Rule) -> str:
    return rule.id.partition("[")[0]


def _text(text: str, span: Span) -> str:
    lines = text.split("\n")[span.line - 1 : span.end_line]
    lines[-1] = lines[-1][: span.end_column - 1]
    lines[0] = lines[0][span.column - 1 :]
    return "\n".join(lines)


def _family_ops(item: tree.RuleItem, value_of: Callable[[tree.Expr], object]) -> Iterator[OpName]:
    for member in item.family.members if item.family else ():
        for value in member:
            if isinstance(value, tree.Qualified):
                found = value_of(value)
                if isinstance(found, OpName):
                    yield found


def _written(item: tree.RuleItem, name: str) -> bool:
    """Whether an op is called by its own name in a rule, not through a family variable."""
    short = name.removesuffix(".default")
    return any(_mentions(part, {name, short}) for part in (*item.steps, item.emit))


def _mentions(node: object, names: set[str]) -> bool:
    if isinstance(node, tree.Qualified):
        return node.name in names
    if isinstance(node, tuple):
        return any(_mentions(part, names) for part in node)
    if isinstance(node, tree.Node):
        return any(_mentions(getattr(node, name), names) for name in node.__dataclass_fields__ if name != "span")
    return False
