"""Rules from text without the checks of the loader, so that tests can rewrite with rules that are wrong.

The rank of a rule is its place in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from textwrap import dedent
from typing import Any

import torch
from torch import nn

from engine.dsl import operators, tree
from engine.dsl.checks.patterns.pattern_resolver import PatternResolver
from engine.dsl.diagnostics import Problems
from engine.dsl.rule import EnumToken, OpName, Rule
from engine.dsl.syntax.parser import parse
from engine.evaluator import Context
from engine.graph.mirror import Mirror
from engine.rewriter import RewriteStats, Trace, rewrite
from tests.graph.build import mirror_of, run


def rules_of(text: str, path: str = "test.rules") -> tuple[tuple[Rule, ...], dict[str, tree.Macro]]:
    """The rules and macros of a text."""
    text = dedent(text).lstrip("\n")
    file = parse(text, path)
    problems = Problems({path: text})
    rules: list[Rule] = []
    for item in file.rules:
        for name, family in _members(item):
            rules.append(_rule(f"{file.stem}.{name}", item, family, len(rules), problems))
    problems.raise_if_any()
    return tuple(rules), {macro.name: macro for macro in file.macros}


def _members(item: tree.RuleItem) -> Iterator[tuple[str, dict[str, object]]]:
    if item.family is None:
        yield item.name, {}
        return
    for number, member in enumerate(item.family.members):
        yield f"{item.name}[{number}]", dict(zip(item.family.names, map(_value, member), strict=True))


def _value(expr: Any) -> object:
    if isinstance(expr, tree.Qualified):
        op = operators.find(expr.name)
        assert op is not None, expr.name
        return OpName(op.name)
    return EnumToken(expr.name) if isinstance(expr, tree.Upper) else expr.value


def _rule(rule_id: str, item: tree.RuleItem, family: dict[str, object], rank: int, problems: Problems) -> Rule:
    return Rule(
        id=rule_id,
        kind=item.kind,
        level=0,
        doc=item.doc,
        roots=PatternResolver(family, problems).roots(item.match),
        steps=item.steps,
        emit=item.emit,
        needs=item.needs,
        over=item.over,
        decreases=item.decreases,
        relax=item.relax,
        tests=item.tests,
        family=family,
        span=item.span,
        rank=rank,
    )


def rewritten(
    text: str,
    model: nn.Module | Callable[..., Any],
    inputs: Sequence[Any],
    dynamic_shapes: Any = None,
    *,
    trace: Trace | None = None,
) -> tuple[Mirror, RewriteStats]:
    """Export a model, rewrite it with every check on, and compare what it computes with eager PyTorch."""
    rules, macros = rules_of(text)
    mirror = mirror_of(model, inputs, dynamic_shapes)
    stats = rewrite(mirror, rules, context(mirror, macros), trace=trace, check=True)
    same(mirror, model, inputs)
    return mirror, stats


def context(mirror: Mirror, macros: dict[str, tree.Macro]) -> Context:
    """An evaluation context without layers."""
    return Context(mirror, {}, macros)


def same(mirror: Mirror, model: Callable[..., Any], inputs: Sequence[Any]) -> None:
    """The graph computes what the model does."""
    mirror.graph.lint()
    found, expected = run(mirror, *inputs), model(*inputs)
    expected = expected if isinstance(expected, tuple | list) else (expected,)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def ops(mirror: Mirror) -> list[str]:
    """The ops of the graph, in order, ``getitem`` left out."""
    found = [mirror.op(node) for node in mirror.graph.nodes if node.op == "call_function"]
    return [op for op in found if op != "getitem"]
