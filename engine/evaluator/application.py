"""Applying a rule to a match: its guards, lets and right side, evaluated to a plan.

Evaluation is pure.  It either yields a plan or a :class:`Failure` with the reason and the place in the rule.
"""

from __future__ import annotations

from typing import Any

from engine.dsl import tree
from engine.dsl.rule import Rule
from engine.dsl.source import USER
from engine.evaluator.bounds import MOST_STEPS
from engine.evaluator.closures.code import Names
from engine.evaluator.closures.rule_code import CompiledRule
from engine.evaluator.context import Context
from engine.evaluator.failures import Failed, Failure, Raised
from engine.evaluator.outputs import abstract, aligned, disagreement, result
from engine.evaluator.plan import Plan, calls_of
from engine.matcher.match import Match


def apply(rule: Rule, match: Match, context: Context) -> Plan | Failure:
    """Evaluate guards, lets and the right side of ``rule`` on a structural match.

    Returns:
        A plan whose outputs align with the roots (several roots), or with the outputs of the one root; or the
        reason why the rule does not apply, which of a `convert` rule may be that it gives another dtype or shape
        than PyTorch.

    Raises:
        EngineError: something in the rule raised, and faults are strict.
    """
    guarded = False
    try:
        code = context.compiler.rule(rule)
        names = _scope(rule, code, match, context)
        for step in code.steps:
            step(names, context)
        guarded = True
        outputs = aligned(code.emit(names, context), rule, match, context)
        plan = Plan(outputs, calls_of(outputs))
        other = disagreement(plan, rule, match, context) if rule.kind == "convert" else None
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
    code = context.compiler.rule(rule)
    assert code.decreases is not None
    names = _scope(rule, code, match, context)
    for let in code.lets:
        let(names, context)
    return int(code.decreases(names, context))


def evaluate(expr: tree.Expr, names: Names, context: Context) -> Any:
    """The value of an expression, for the names in scope.

    Raises:
        Failed: the rule cannot apply, with the innermost span that is known.
        Raised: something raised an exception of Python, likewise.
    """
    context.steps = MOST_STEPS
    return context.compiler.code(expr)(names, context)


def _scope(rule: Rule, code: CompiledRule, match: Match, context: Context) -> Names:
    """The names that a rule begins with."""
    context.steps = MOST_STEPS
    mirror = context.mirror
    names = {name: abstract(value, mirror) for name, value in match.bindings.items()}
    names.update(rule.family)
    if code.asks_result:
        names["result"] = result(match.roots[0], mirror)
    return names


__all__ = ["apply", "decreasing", "evaluate"]
