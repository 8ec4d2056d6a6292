"""What can be said of a user's rule without running it: why it is not checked, or can never apply, or is not finished.

Rules that are loaded have no mistakes of syntax, names or sorts.  What is looked for here is seen in the text, in the
schema of the op and in the ranks that the pattern asks for.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.dsl import operators, tree
from engine.dsl.forms import ops_in
from engine.dsl.rule import Rule
from engine.dsl.ruleset import RuleSet
from engine.errors import Span
from engine.linter.codes import CODES
from engine.linter.known import Known
from engine.linter.subject import bound_by, names_in, read_later


@dataclass(frozen=True, slots=True)
class Advice:
    """Something about one rule.

    Attributes:
        fatal: the rule was not checked, or never applies.
        code: of :data:`engine.linter.codes.CODES`.
    """

    rule: str
    span: Span
    message: str
    fatal: bool
    code: str

    def __str__(self) -> str:
        kind = "error" if self.fatal else "warning"
        return f"{self.span.file}:{self.span.line}: {kind}: {self.rule}: {self.message}"


def advice(ruleset: RuleSet, chosen: Callable[[Rule], bool]) -> list[Advice]:
    """What there is to say of some rules, in the order of the text; once for a family.

    Args:
        chosen: which rules are looked at.
    """
    found: dict[tuple[str, Span, str], Advice] = {}
    for rule, reason in ruleset.inactive:
        if chosen(rule) and (foreign := _unregistered(rule, reason)):
            _add(found, rule, rule.span, foreign, "R002")
        elif chosen(rule):
            _add(found, rule, rule.span, f"it is inactive here: {reason}", "R003")
    for rule in [*ruleset.rules, *(rule for rule, _ in ruleset.inactive)]:
        if not chosen(rule):
            continue
        for code, span, message in (*_never(rule, ruleset.macros), *_unfinished(rule)):
            _add(found, rule, span, message, code)
    return sorted(found.values(), key=lambda item: (item.span.file, item.span.line, item.span.column, item.message))


def _add(found: dict[tuple[str, Span, str], Advice], rule: Rule, span: Span, message: str, code: str) -> None:
    name = rule.id.partition("[")[0]
    found.setdefault((name, span, message), Advice(name, span, message, CODES[code].error, code))


# ------------------------------------------------------------------------------------------ ops that are not there


def _unregistered(rule: Rule, reason: str) -> str | None:
    """Why a rule was not checked whose ops nothing registers; None if it is inactive for another reason."""
    missing = unregistered_ops(reason)
    if missing is None:
        return None
    return f"it was not checked: nothing that is loaded registers {missing}; {unregistered_hint(missing)}"


def unregistered_ops(reason: str) -> str | None:
    """The ops that an inactive rule waits for, None if it is inactive for another reason."""
    missing = reason.removeprefix("needs ").removesuffix(", which no loaded package registers")
    return missing if missing != reason and reason.endswith("registers") else None


def unregistered_hint(missing: str) -> str:
    """What to do about ops that nothing registers."""
    name = missing.partition(",")[0]
    if name.startswith("torch.ops."):
        return f"rules write `{name.removeprefix('torch.ops.')}`"
    namespace, _, rest = name.partition(".")
    near = [
        f"{other}.{rest}"
        for other in difflib.get_close_matches(namespace, operators.namespaces(), n=3, cutoff=0.6)
        if operators.find(f"{other}.{rest}") is not None
    ]
    meant = f"did you mean `{near[0]}`? Or " if near else ""
    return f"{meant}name the module that does: engine --import MODULE rules check FILE"


# ------------------------------------------------------------------------------------------ rules that never apply


def _never(rule: Rule, macros: Mapping[str, tree.Macro]) -> Iterator[tuple[str, Span, str]]:
    yield from (("R004", span, message) for span, message in _false_guards(rule))
    if len(rule.roots) == 1 and rule.roots[0].outputs is None and rule.roots[0].output == 0:
        outputs = _outputs(rule.roots[0].op)
        for value in _results(rule.emit):
            if outputs is not None and isinstance(value, tree.TupleOf) and len(value.items) > outputs:
                given = f"{len(value.items)} values for {outputs} output{'' if outputs == 1 else 's'}"
                yield "R005", value.span, f"it gives {given} of {rule.roots[0].op}"
    if rule.kind == "simplify":
        matched = sum(1 for root in rule.roots for _ in ops_in(root))
        least = _Least(rule, macros).of_rule()
        if least > matched:
            yield (
                "R006",
                rule.emit.span,
                f"a `simplify` rule leaves fewer nodes: this matches {matched}, and gives {least} or more",
            )


def _outputs(op: str) -> int | None:
    operator = operators.find(op)
    if operator is None or any("[" in kind for kind in operator.returns):
        return None
    return len(operator.returns)


def _results(value: tree.Expr) -> Iterator[tree.Expr]:
    """What an expression can come to."""
    if isinstance(value, tree.Conditional):
        yield from _results(value.then)
        yield from _results(value.otherwise)
    else:
        yield value


def _false_guards(rule: Rule) -> Iterator[tuple[Span, str]]:
    """Guards that the ranks of the pattern make false, or that ask for dims which are not there."""
    ranks = Known.of([rule]).ranks
    known = Known(ranks, {})
    for step in rule.steps:
        if not isinstance(step, tree.Guard) or step.target is not None:
            continue
        if known.truth(step.value) is False:
            read = names_in(step.value) & ranks.keys()
            about = ", ".join(f"`{name}` has rank {ranks[name]}" for name in sorted(read))
            yield step.span, f"`{step.text}` is always false: in the pattern {about}"
        for call in tree.walk(step.value):
            dim = _dim(call, known)
            if dim is not None:
                yield step.span, f"`{step.text}` asks for dim {dim[1]} of `{dim[0]}`, which has rank {ranks[dim[0]]}"


def _dim(call: tree.Node, known: Known) -> tuple[str, int] | None:
    """A dim that a call asks for and that is not there."""
    if not (isinstance(call, tree.Call) and isinstance(call.function, tree.Name) and call.function.name == "dim"):
        return None
    if len(call.arguments) != 2:
        return None
    tensor, axis = call.arguments
    index = known.number(axis)
    if isinstance(tensor, tree.Name) and tensor.name in known.ranks and index is not None:
        rank = known.ranks[tensor.name]
        return None if -rank <= index < rank else (tensor.name, index)
    return None


class _Least:
    """The least number of ops that a right side gives, whichever way its conditions go."""

    def __init__(self, rule: Rule, macros: Mapping[str, tree.Macro]) -> None:
        self.macros = macros
        self.emit = rule.emit
        self.lets = {
            step.target.name: step.value
            for step in rule.steps
            if isinstance(step, tree.Let) and step.target.name is not None
        }

    def of_rule(self) -> int:
        """The number for the whole right side."""
        return self._of(self.emit, set())

    def _of(self, value: Any, seen: set[str]) -> int:
        if isinstance(value, tree.Conditional):
            both = (set(seen), set(seen))
            least = min(self._of(value.then, both[0]), self._of(value.otherwise, both[1]))
            seen |= both[0] & both[1]
            return least
        if isinstance(value, tree.Comprehension):
            return 0
        if isinstance(value, tree.Name):
            if value.name in seen or value.name not in self.lets:
                return 0
            seen.add(value.name)
            return self._of(self.lets[value.name], seen)
        if isinstance(value, tree.Binary) and value.operator in ("and", "or"):
            return self._of(value.left, seen)
        if isinstance(value, tree.Call):
            count = self._of(value.arguments, seen)
            if isinstance(value.function, tree.Qualified | tree.Upper):
                return count + 1
            if isinstance(value.function, tree.Name) and value.function.name in self.macros:
                # A macro need not use what it is given.
                return _Bare(self.macros)._of(self.macros[value.function.name].body, set())
            return count
        if isinstance(value, tuple):
            return sum(self._of(item, seen) for item in value)
        if isinstance(value, tree.Node):
            return sum(self._of(getattr(value, name), seen) for name in value.__dataclass_fields__ if name != "span")
        return 0


class _Bare(_Least):
    """The same of the body of a macro, which has no names of the rule."""

    def __init__(self, macros: Mapping[str, tree.Macro]) -> None:
        self.macros = macros
        self.lets = {}


# ------------------------------------------------------------------------------------------ rules that are not finished


def _unfinished(rule: Rule) -> Iterator[tuple[str, Span, str]]:
    if not any(not test.rejects for test in rule.tests):
        yield "R104", rule.span, "it has no `test` line, so nothing shows that it is right: `test x: f32[2, 3]`"
    for step, target, later in read_later(rule.steps, (rule.emit, rule.decreases)):
        names = [str(one.name) for one in bound_by(target)]
        if isinstance(step, tree.Let) and names and not later & set(names):
            yield "R105", step.span, f"`let {', '.join(names)}` is not read"


__all__ = ["Advice", "advice", "unregistered_hint", "unregistered_ops"]
