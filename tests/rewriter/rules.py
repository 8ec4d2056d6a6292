"""Rules from text without the checks of the loader, so that tests can rewrite with rules that are wrong.

The rank of a rule is its place in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from textwrap import dedent
from typing import Any

import torch
from torch import fx, nn

from engine.dsl import operators, tree
from engine.dsl.checks.pattern_resolver import PatternResolver
from engine.dsl.diagnostics import Problems
from engine.dsl.rule import EnumToken, OpName, Rule
from engine.dsl.syntax.parser import parse
from engine.evaluator import Context
from engine.graph.mirror import Mirror
from engine.rewriter import RewriteStats, Trace, rewrite
from engine.rewriter.change import text as text_of
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


def show(mirror: Mirror) -> str:
    """The graph as text: one node per line with op, operands, shape and rewrites."""
    text = "\n".join(_line(mirror, node) for node in mirror.graph.nodes)
    # PyTorch names symbols by a hash that differs between its versions.
    symbols = {name: f"s{number}" for number, name in enumerate(dict.fromkeys(re.findall(r"\bs\d+\b", text)))}
    return re.sub(r"\bs\d+\b", lambda found: symbols[found[0]], text)


def _line(mirror: Mirror, node: fx.Node) -> str:
    if node.op == "output":
        return f"output {node.args[0]}"
    val = node.meta["val"]
    shape = text_of(val) if isinstance(val, torch.Tensor) else ""
    text = f"%{node.name} = {mirror.op(node)}"
    if node.op == "call_function":
        items = [str(item) for item in (*node.args, *(f"{k}={v}" for k, v in node.kwargs.items() if v is not None))]
        text += f"({', '.join(items)})"
    elif node.op == "get_attr":
        text += f"[{node.target}]"
    rules = ", ".join(step.rule_id for step in node.meta.get("rules", ()))
    return f"{text} {shape}".rstrip() + (f"  # {rules}" if rules else "")


def ops(mirror: Mirror) -> list[str]:
    """The ops of the graph, in order, ``getitem`` left out."""
    found = [mirror.op(node) for node in mirror.graph.nodes if node.op == "call_function"]
    return [op for op in found if op != "getitem"]
