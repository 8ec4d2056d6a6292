"""How a rule uses names that only some of its alternatives bind: they are none where another one fits."""

from __future__ import annotations

from collections.abc import Mapping

from engine.dsl import tree
from engine.dsl.diagnostics import Problems
from engine.dsl.rule import OneOf


def check(item: tree.RuleItem, partial: Mapping[str, OneOf], problems: Problems) -> None:
    """Report names that are none in some alternatives though nothing in the rule seems to expect that.

    A rule expects it if it asks for it (``s is none``), asks which alternative it has, or hands the name to a macro
    or an op, which may take none.

    Args:
        partial: names that some of several alternatives bind and others do not, with those alternatives.
    """
    if not partial:
        return
    body = [step.value for step in item.steps] + [item.emit] + [x for x in (item.decreases,) if x is not None]
    read = {node.name for node in tree.walk(body) if isinstance(node, tree.Name | tree.Upper)}
    expected = {name for node in tree.walk(body) for name in _expecting(node)}
    for name, where in partial.items():
        if "." in name or name in expected or read & {flag for flag in where.names if flag is not None}:
            continue
        if name in read:
            problems.report(
                f"`{name}` is none where an alternative without it fits, and the rule never tests for that",
                where.span,
                f"test `{name} is none`, name an alternative (`.. as name`) and test that, or bind `{name}` in each",
            )
        else:
            problems.report(
                f"only some of these alternatives bind `{name}`, and the rule does not read it",
                where.span,
                "write `_` for what does not matter",
            )


def _expecting(node: tree.Node) -> list[str]:
    """Names that may be none as far as one node of an expression is concerned."""
    match node:
        case tree.Is(value=tree.Name(name=name) | tree.Upper(name=name), pattern=tree.Literal(value=None)):
            return [name]
        case tree.Call():
            values = (item.value if isinstance(item, tree.Keyword) else item for item in node.arguments)
            return [value.name for value in values if isinstance(value, tree.Name | tree.Upper)]
    return []
