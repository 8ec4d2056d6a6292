"""``docs/ops.md``: every op, the rules that take it, what they ask for, and how it was verified."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from engine.dsl import tree
from engine.dsl.checks import needs
from engine.dsl.checks.facts import emitted_ops
from engine.dsl.rule import Rule
from engine.dsl.ruleset import RuleSet
from engine.verify.core import standing
from engine.verify.since import Since, walk

# How a rule's two sides may differ, as `relax` allows.
_RELAXED = {
    "nan": "nan and infinities may give another result",
    "signed_zero": "-0 may become 0",
    "ties": "any of equal elements may come first",
    "reassociation": "sums in another order",
    "overflow": "numbers may overflow, or lose digits, on the way to a result that does not",
    "uninitialized": "memory that nothing was written to",
}


# In the order in which they are listed.
_DTYPES = ("f32", "f16", "bf16", "f64", "i64", "i32", "i16", "i8", "u8", "bool", "c64")


@dataclass(slots=True)
class Verified:
    """What tests of an op showed.

    Attributes:
        dtypes: in which it was in an engine and agreed with PyTorch.
        limits: why it stayed in PyTorch elsewhere, in words.
    """

    dtypes: set[str] = field(default_factory=set)
    limits: dict[str, None] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join(dtype for dtype in _DTYPES if dtype in self.dtypes)


def table(rules: RuleSet, verified: Mapping[str, Verified], others: Iterable[str] = ()) -> str:
    """The ops that rules take, and ``others``, as a Markdown table.

    Args:
        verified: by full overload name, as ``aten.add.Tensor``.
        others: full overload names to list though no rule may be rooted at them.
    """
    by_op: dict[str, list[Rule]] = defaultdict(list)
    for rule in (*rules.rules, *(rule for rule, _ in rules.inactive)):
        # Other forms are used only where others take the op as well.
        for op in () if needs.is_optional(rule.needs) else dict.fromkeys(root.op for root in rule.roots):
            by_op[op].append(rule)
    since = Since(rules)
    rows = [_row(op, by_op, rules, verified.get(op), since) for op in sorted({*by_op, *others})]
    head = ["op", "rules", "dtypes", "dynamic", "TensorRT", "limits"]
    return "\n".join(_line(cells) for cells in (head, ["---"] * len(head), *rows)) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _row(
    op: str, by_op: Mapping[str, Sequence[Rule]], rules: RuleSet, seen: Verified | None, since: Since
) -> list[str]:
    found = by_op.get(op, ())
    limits = dict(seen.limits) if seen is not None else {}
    if found:
        how = ", ".join(dict.fromkeys(_link(rule) for rule in found))
        dynamic = "yes" if any(_is_dynamic(rule) for rule in found) else ""
        limits.update(dict.fromkeys(_RELAXED[word] for word in _relaxed(op, by_op, rules)))
    else:
        what = standing(op, rules)
        how = "PyTorch's decomposition" if what == "decomposition" else "none"
        dynamic = ""
        limits.update({} if what in (None, "decomposition") else {what: None})
    target = [".".join(map(str, since.of(op)))] if found else []
    # What one rule needs says little where another takes the op without.
    if found and all(rule.needs for rule in found):
        target += dict.fromkeys(needs.show(term) for rule in found for term in rule.needs)
    dtypes = str(seen or "")
    return [f"`{op.removeprefix('aten.')}`", how, dtypes, dynamic, ", ".join(target), "; ".join(limits)]


def _relaxed(op: str, by_op: Mapping[str, Sequence[Rule]], rules: RuleSet) -> dict[str, None]:
    """The words of ``relax`` of an op's rules.

    Where one only spells it as another op, those of the `convert` rules of that op, too.
    """
    words: dict[str, None] = {}
    for rule in by_op.get(op, ()):
        words.update(dict.fromkeys(rule.relax))
        emitted = () if rule.kind == "convert" else emitted_ops(rule, rules.macros)
        if len(emitted) == 1:
            converts = [other for other in by_op.get(emitted[0], ()) if other.kind == "convert"]
            words.update(dict.fromkeys(word for other in converts for word in other.relax))
    return words


def _link(rule: Rule) -> str:
    path = PurePath(rule.span.file)
    name = re.sub(r"\[\d+\]$", "", rule.id)
    return f"[{name}](../rules/{path.parent.name}/{path.name})"


def _is_dynamic(rule: Rule) -> bool:
    return any(
        isinstance(node, tree.Dim) and node.range is not None
        for test in rule.tests
        if not test.rejects
        for node in walk(test)
    )


__all__ = ["Verified", "table"]
