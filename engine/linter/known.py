"""What the pattern of a rule makes certain (ranks, dtypes, that it is a tensor), and what guards come to by it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.dsl import tree
from engine.dsl.checks.needs import RELATIONS
from engine.dsl.forms import within
from engine.dsl.rule import ArgumentPattern, Bind, OneOf, OpMatch, Rule
from engine.dsl.vocabulary import dtype_classes, dtypes, expand_dtypes


@dataclass(frozen=True, slots=True)
class Known:
    """Facts by the name of an operand; of operands that may be absent nothing is certain.

    Attributes:
        ranks: of tensors whose type says all dims.
        kinds: the dtypes that the type of a tensor allows.
    """

    ranks: dict[str, int]
    kinds: dict[str, frozenset[str]]

    @classmethod
    def of(cls, rules: Sequence[Rule]) -> Known:
        """What all members of a family make certain."""
        known = [cls._of_rule(rule) for rule in rules]
        if not known:
            return cls({}, {})
        first, *others = known
        ranks = {n: r for n, r in first.ranks.items() if all(other.ranks.get(n) == r for other in others)}
        kinds = {n: k for n, k in first.kinds.items() if all(other.kinds.get(n) == k for other in others)}
        return cls(ranks, kinds)

    @classmethod
    def _of_rule(cls, rule: Rule) -> Known:
        found = cls({}, {})
        found._add(rule.roots)
        return found

    def _add(self, patterns: Iterable[ArgumentPattern]) -> None:
        for pattern in patterns:
            if isinstance(pattern, OneOf) or (isinstance(pattern, OpMatch) and pattern.optional):
                continue
            kind = pattern.type if isinstance(pattern, Bind) else None
            if isinstance(pattern, Bind) and kind is not None and not kind.optional:
                if kind.dims is not None and not any(dim.rest for dim in kind.dims):
                    self.ranks[pattern.name] = len(kind.dims)
                # `x: bool` is a Python truth; `x: bool[..]` is a tensor.
                truth = kind.names == ("bool",) and kind.dims is None
                if kind.names and not truth and all(one in dtype_classes() or one in dtypes() for one in kind.names):
                    self.kinds[pattern.name] = expand_dtypes(kind.names)
            self._add(within(pattern))

    def truth(self, value: tree.Expr) -> bool | None:
        """What a condition comes to, None where that depends on more."""
        match value:
            case tree.Literal(value=bool() as literal):
                return literal
            case tree.Unary(operator="not"):
                inner = self.truth(value.value)
                return None if inner is None else not inner
            case tree.Binary(operator="and" | "or"):
                sides = [self.truth(value.left), self.truth(value.right)]
                decisive = value.operator == "or"
                if decisive in sides:
                    return decisive
                return None if None in sides else not decisive
            case tree.Is(value=tree.Name(name=name), pattern=tree.Literal(value=None)) if name in self.kinds:
                return value.negated
            case tree.Call(function=tree.Name(name="is_tensor"), arguments=(tree.Name(name=name),)):
                return True if name in self.kinds else None
            case tree.Binary():
                return self._compared(value)
        return None

    def _compared(self, value: tree.Binary) -> bool | None:
        allowed = self._kinds(value.left)
        if allowed is not None:
            wanted = _dtypes(value.right)
            if wanted is None or value.operator not in ("==", "!=", "in", "not in"):
                return None
            if allowed <= wanted and (len(wanted) == 1 or value.operator in ("in", "not in")):
                return value.operator in ("==", "in")
            return value.operator in ("!=", "not in") if not allowed & wanted else None
        left = self.number(value.left)
        if value.operator in ("in", "not in") and isinstance(value.right, tree.ListOf | tree.TupleOf):
            items = [self.number(item) for item in value.right.items]
            return None if left is None or None in items else (left in items) is (value.operator == "in")
        compare, right = RELATIONS.get(value.operator), self.number(value.right)
        return None if compare is None or left is None or right is None else compare(left, right)

    def _kinds(self, value: object) -> frozenset[str] | None:
        match value:
            case tree.Call(function=tree.Name(name="dtype"), arguments=(tree.Name(name=name),)):
                return self.kinds.get(name)
        return None

    def number(self, value: object) -> int | None:
        """The whole number that an expression comes to, None where that depends on more."""
        match value:
            case tree.Literal(value=number) if type(number) is int:
                return number
            case tree.Unary(operator="-"):
                number = self.number(value.value)
                return None if number is None else -number
            case tree.Binary(operator="+" | "-" | "*"):
                left, right = self.number(value.left), self.number(value.right)
                if left is None or right is None:
                    return None
                return (
                    left + right if value.operator == "+" else left - right if value.operator == "-" else left * right
                )
            case tree.Call(function=tree.Name(name="rank"), arguments=(tree.Name(name=name),)):
                return self.ranks.get(name)
        return None


def _dtypes(value: tree.Expr | tree.Splat) -> frozenset[str] | None:
    """The dtypes that an expression names."""
    if isinstance(value, tree.Name) and (value.name in dtypes() or value.name in dtype_classes()):
        return expand_dtypes([value.name])
    if isinstance(value, tree.ListOf | tree.TupleOf):
        parts = [_dtypes(item) for item in value.items]
        return None if None in parts else frozenset().union(*(part for part in parts if part is not None))
    return None


__all__ = ["Known"]
