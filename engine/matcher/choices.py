"""Choices between right ways: which matches of a rule are passed over, because another way was measured to be faster.

Every rule is right alone, so a compilation is right whatever is chosen.  The matcher asks, and so the rewriter, the
folding of constants and the tiling see the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from engine.graph.mirror import Mirror
from engine.matcher.match import Match
from engine.matcher.structure import structure


class Site(NamedTuple):
    """A rule at every place of one structure.

    Attributes:
        rule: its id.
        structure: see :func:`engine.matcher.structure.structure`.
    """

    rule: str
    structure: str


class Choices:
    """What was chosen, by the structure of matches.

    Args:
        left_out: rules that are not used at places of that structure.
        used: the same of rules that are only used where that was chosen (``optional``).
        optional: ids of those rules.
        in_pytorch: nothing is rewritten and nothing is in an engine.
    """

    def __init__(
        self,
        left_out: Iterable[Site] = (),
        used: Iterable[Site] = (),
        optional: Iterable[str] = (),
        in_pytorch: bool = False,
    ) -> None:
        self.left_out = frozenset(left_out)
        self.used = frozenset(used)
        self.optional = frozenset(optional)
        self.in_pytorch = in_pytorch
        self._rules = {site.rule for site in (*self.left_out, *self.used)}

    def with_optional(self, optional: Iterable[str]) -> Choices:
        """The same for a rule set in which these rules are optional."""
        return Choices(self.left_out, self.used, optional, self.in_pytorch)

    def passes_over(self, match: Match, mirror: Mirror) -> bool:
        """Whether a match is to be taken for none."""
        rule = match.rule.id
        optional = rule in self.optional
        if rule not in self._rules:
            return optional
        site = Site(rule, structure(match, mirror))
        return site not in self.used if optional else site in self.left_out


__all__ = ["Choices", "Site"]
