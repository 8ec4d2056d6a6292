"""Which branches of rules their test lines reach.

A branch is an arm of ``a if c else b``, an element of a comprehension, an element that its ``if`` drops, or a
plain form of the pattern (``op?`` absent, ``{}`` exchanged).  Members of a family share their branches; macros
have them too, reached from any rule.  Rules that are inactive here are not asked: their lines do not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.dsl import tree
from engine.dsl.expansion import expand
from engine.dsl.rule import Rule
from engine.errors import Span
from engine.evaluator import Failure, Faults, apply
from engine.evaluator.coverage import Visits, recording
from engine.lowering.subgraphs import Subgraphs
from engine.matcher.matcher import Matcher
from engine.settings import CompilationSettings
from engine.verify.forms import fitting
from engine.verify.instances import Inapplicable, Instance, instance

if TYPE_CHECKING:
    from engine.dsl.ruleset import RuleSet


@dataclass(frozen=True, slots=True)
class Branch:
    """A place in a rule or macro that evaluation may or may not reach.

    Attributes:
        owner: the rule's id without the member's number, or the macro's name.
        what: what it is, in words.
        outcome: the value that must have been seen there; None if any will do.
        form: number of the plain form of the pattern that must have matched, None for a place in an expression.
    """

    owner: str
    span: Span
    what: str
    outcome: bool | None = None
    form: int | None = None

    def __str__(self) -> str:
        return f"{self.span}: {self.owner}: {self.what}"


@dataclass(slots=True)
class Reached:
    """What test lines reach.

    Attributes:
        visits: expressions evaluated, by place.
        forms: plain forms of patterns that matched, by ``(kind, rule without member)``.
    """

    visits: Visits = field(default_factory=dict)
    forms: dict[tuple[str, str], set[int]] = field(default_factory=dict)

    def add(self, other: Reached) -> None:
        """Add what other lines reach."""
        for span, outcomes in other.visits.items():
            self.visits.setdefault(span, set()).update(outcomes)
        for rule, forms in other.forms.items():
            self.forms.setdefault(rule, set()).update(forms)

    def reaches(self, branch: Branch, kind: str = "") -> bool:
        """Whether a branch is among it."""
        if branch.form is not None:
            return branch.form in self.forms.get((kind, branch.owner), ())
        outcomes = self.visits.get(branch.span, ())
        return branch.outcome in outcomes if branch.outcome is not None else bool(outcomes)


def _instance(rule: Rule, test: tree.Test, form: int, rules: RuleSet) -> Instance:
    return instance(rule, test, macros=rules.macros, form=form)


def reached(
    rule: Rule, rules: RuleSet, made_of: Callable[[Rule, tree.Test, int, RuleSet], Instance] = _instance
) -> Reached:
    """What the lines of one rule, or of one member of a family, reach; nothing is run.

    Args:
        made_of: the instance of a line that has a plain form of the pattern, for callers that have made some before;
            it is left as it is.
    """
    found = Reached()
    forms = found.forms.setdefault((rule.kind, base(rule)), set())
    with recording(found.visits):
        for test in rule.tests:
            for form in fitting(rule, test):
                try:
                    made = made_of(rule, test, form, rules)
                except Inapplicable:
                    continue
                context = Subgraphs(rules, CompilationSettings(), faults=Faults(strict=False)).context(made.mirror)
                for match in Matcher([rule], made.mirror).matches(made.roots[0]):
                    if not isinstance(apply(rule, match, context), Failure):
                        forms.add(match.expansion)
                        break
    return found


def base(rule: Rule) -> str:
    """The id of a rule without the number of a member."""
    return rule.id.partition("[")[0]


def of_rule(rule: Rule) -> list[Branch]:
    """The branches of a rule as written."""
    found = [branch for item in (*rule.steps, rule.emit) for branch in _branches(item, base(rule))]
    for expansion in expand(rule)[1:]:
        what = "the pattern without an optional op or with operands exchanged"
        found.append(Branch(base(rule), rule.roots[0].span, f"{what} (form {expansion.number})", form=expansion.number))
    return list(dict.fromkeys(found))


def of_macro(macro: tree.Macro) -> list[Branch]:
    """The branches of a macro."""
    return list(dict.fromkeys(_branches(macro.body, macro.name)))


def guards(rule: Rule) -> list[Branch]:
    """The guards of a rule, as what is reached where they are false: by a ``reject`` line."""
    return [
        Branch(base(rule), step.value.span, "a guard that is never false", outcome=False)
        for step in rule.steps
        if isinstance(step, tree.Guard) and step.target is None
    ]


def unreached(chosen: Iterable[Rule], found: Reached) -> list[Branch]:
    """The branches of rules that no line reaches, in the order of the text."""
    missing: dict[Branch, None] = {}
    for rule in chosen:
        for branch in of_rule(rule):
            if not found.reaches(branch, rule.kind):
                missing[branch] = None
    return sorted(missing, key=_place)


def unreached_in_macros(rules: RuleSet, found: Reached) -> list[Branch]:
    """The branches of macros that no line of any rule reaches, of those macros that active rules call."""
    missing = (
        branch for name in callers(rules) for branch in of_macro(rules.macros[name]) if not found.reaches(branch)
    )
    return sorted(missing, key=_place)


def _place(branch: Branch) -> tuple[str, int, int, int]:
    return branch.span.file, branch.span.line, branch.span.column, branch.form or 0


def _branches(item: Any, owner: str) -> Iterator[Branch]:
    for node in tree.walk(item):
        if isinstance(node, tree.Conditional):
            yield Branch(owner, node.then.span, "what stands before `if` is never taken")
            yield Branch(owner, node.otherwise.span, "what stands behind `else` is never taken")
        elif isinstance(node, tree.Comprehension):
            yield Branch(owner, node.value.span, "a comprehension that is always empty")
            if node.test is not None:
                yield Branch(owner, node.test.span, "an `if` that drops nothing", outcome=False)


def callers(rules: RuleSet) -> dict[str, list[Rule]]:
    """The active rules that call each macro, directly or not, by its name; macros without any are left out."""
    found: dict[str, list[Rule]] = {}
    for rule in rules.rules:
        called: set[str] = set()
        waiting: list[object] = [*rule.steps, rule.emit]
        while waiting:
            for node in tree.walk(waiting.pop()):
                if isinstance(node, tree.Name) and node.name in rules.macros and node.name not in called:
                    called.add(node.name)
                    waiting.append(rules.macros[node.name].body)
        for name in sorted(called):
            found.setdefault(name, []).append(rule)
    return dict(sorted(found.items()))


__all__ = [
    "Branch",
    "Reached",
    "base",
    "callers",
    "guards",
    "of_macro",
    "of_rule",
    "reached",
    "unreached",
    "unreached_in_macros",
]
