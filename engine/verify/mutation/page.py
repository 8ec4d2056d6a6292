"""The changes of rules that no line notices, as a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine import tensorrt
from engine.verify.mutation.judging import Judged
from engine.verify.mutation.results import share

if TYPE_CHECKING:
    from engine.dsl.ruleset import RuleSet

_HEAD = """# Changes of rules that no line notices

`engine rules mutate` changes numbers, flags, enum members and comparisons of rules and leaves out guards, one at a
time. A `test` or `reject` line notices a change where the changed rule does not apply, fires though the line rejects,
or computes something else than PyTorch. This page is written by `engine rules mutate --page`.
"""


def page(found: Sequence[Judged], rules: RuleSet, examples: int) -> str:
    """The page as Markdown; changes by file and rule, in the order of the text.

    Args:
        examples: instances that were drawn for a change that no line notices.
    """
    noticed, survived, same = (
        [item for item in found if item.outcome == what] for what in ("noticed", "survived", "equivalent")
    )
    parts = [
        _HEAD,
        f"With {tensorrt.describe_tensorrt()}: {len(found):,} changes of {len({item.rule for item in found}):,} rules. "
        f"{len(noticed):,} are noticed, {len(survived):,} are not, {len(same):,} may mean the same. Of those that mean "
        f"something else **{share(found):.1%}** are noticed.\n",
        "## Not noticed\n",
        "Each with a line that would notice it, where one of the drawn instances does.\n",
        *_listed(survived),
        "## Perhaps the same\n",
        f"None of up to {examples} drawn instances of each rule tells these from the rule. Many cannot be told apart "
        "at all: what they change is decided before, by the pattern, by another guard or by what PyTorch accepts. "
        "That is not proven, one by one.\n",
        *_listed(same),
    ]
    return "\n".join(parts)


def _listed(found: Sequence[Judged]) -> Iterator[str]:
    rule = ""
    for item in found:
        name = f"{item.kind} {item.rule}"
        if name != rule:
            rule = name
            yield f"### {item.kind} `{item.rule}`\n"
        reason = item.reason if item.outcome == "survived" else ""
        line = f": `{item.line}`" if item.line else ""
        place = Path(item.where.rpartition(":")[0]).name
        yield f"- {place}: {item.what}{'; ' if reason or line else ''}{reason}{line}\n"


__all__ = ["page"]
