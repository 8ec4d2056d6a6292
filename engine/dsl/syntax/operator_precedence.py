"""Precedence of operators, applied to the flat list that the grammar gives.

From loose to tight: ``or``; ``and``; ``not``; comparisons, ``in`` and ``is``; ``+ - ++``; ``* / // %``; minus.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lark import Token

from engine.dsl import tree
from engine.errors import Span

if TYPE_CHECKING:
    from engine.dsl.syntax.expression_builder import ExpressionBuilder

_OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT, _MINUS = range(1, 8)
_LEVELS = {
    "OR": _OR,
    "AND": _AND,
    "RELATION": _COMPARISON,
    "IN": _COMPARISON,
    "NOT_IN": _COMPARISON,
    "IS": _COMPARISON,
    "IS_NOT": _COMPARISON,
    "ADD": _SUM,
    "MULTIPLY": _PRODUCT,
}


class Operations:
    """Operands and operators of one expression, read from left to right."""

    def __init__(self, builder: ExpressionBuilder, items: Sequence[Any]) -> None:
        self.builder = builder
        self.items = items
        self.position = 0

    def expr(self, level: int = _OR) -> tree.Expr:
        """The longest expression from here whose operators bind at least as tightly as ``level``."""
        left = self._operand(level)
        compared = False
        while self.position < len(self.items):
            token = self.items[self.position]
            own = _LEVELS[token.type]
            if own < level:
                break
            if own == _COMPARISON:
                if compared:
                    self.builder.report("comparisons do not chain", token, hint="write `0 <= a and a < n`")
                compared = True
            self.position += 1
            left = self._joined(left, token, own)
            if own < _COMPARISON:
                compared = False
        return left

    def _joined(self, left: tree.Expr, token: Token, level: int) -> tree.Expr:
        if token.type in ("IS", "IS_NOT"):
            pattern = self.builder.pattern(self.items[self.position])
            self.position += 1
            return tree.Is(_join(left.span, pattern.span), left, pattern, token.type == "IS_NOT")
        right = self.expr(level + 1)
        operator = "not in" if token.type == "NOT_IN" else str(token)
        return tree.Binary(_join(left.span, right.span), operator, left, right)

    def _operand(self, level: int) -> tree.Expr:
        item = self.items[self.position]
        self.position += 1
        if not isinstance(item, Token):
            return self.builder.expr(item)
        span = self.builder.span(item)
        if item.type == "NOT":
            if level > _NOT:
                self.builder.report("`not` needs brackets here", item, hint="write `a == (not b)`")
            value = self.expr(_NOT)
            return tree.Unary(_join(span, value.span), "not", value)
        value = self.expr(_MINUS)
        whole = _join(span, value.span)
        if isinstance(value, tree.Literal) and type(value.value) in (int, float):
            return tree.Literal(whole, -value.value)  # type: ignore[operator]
        return tree.Unary(whole, "-", value)


def _join(first: Span, last: Span) -> Span:
    return Span(first.file, first.line, first.column, last.end_line, last.end_column)
