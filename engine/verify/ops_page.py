"""``docs/ops.md``: every op, the rules that take it, what they ask for, and how it was verified."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from engine.dsl import needs, tree
from engine.dsl.rule import Rule
from engine.dsl.ruleset import RuleSet
from engine.verify.core import standing

# How a rule's two sides may differ, as `relax` allows.
_RELAXED = {
    "nan": "nan and infinities may give another result",
    "signed_zero": "-0 may become 0",
    "ties": "any of equal elements may come first",
    "reassociation": "sums in another order",
    "overflow": "numbers may overflow, or lose digits, on the way to a result that does not",
    "uninitialized": "memory that nothing was written to",
}


@dataclass(slots=True)
class Verified:
    """What samples of an op showed.

    Attributes:
        passed, run: numbers of samples by dtype.
        limits: why samples stay in PyTorch, in words.
    """

    passed: dict[str, int] = field(default_factory=dict)
    run: dict[str, int] = field(default_factory=dict)
    limits: dict[str, None] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(f"{dtype} {self.passed.get(dtype, 0)}/{count}" for dtype, count in self.run.items())


def table(rules: RuleSet, verified: Mapping[str, Verified], others: Iterable[str] = ()) -> str:
    """The ops that rules take, and ``others``, as a Markdown table.

    Args:
        verified: by full overload name, as ``aten.add.Tensor``.
        others: full overload names to list though no rule may be rooted at them.
    """
    by_op: dict[str, list[Rule]] = defaultdict(list)
    for rule in (*rules.rules, *(rule for rule, _ in rules.inactive)):
        for op in dict.fromkeys(root.op for root in rule.roots):
            by_op[op].append(rule)
    rows = [_row(op, by_op[op], rules, verified.get(op)) for op in sorted({*by_op, *others})]
    head = ["op", "rules", "dynamic", "needs", "samples that pass", "limits"]
    return "\n".join(_line(cells) for cells in (head, ["---"] * len(head), *rows)) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _row(op: str, found: Sequence[Rule], rules: RuleSet, seen: Verified | None) -> list[str]:
    limits = dict(seen.limits) if seen is not None else {}
    if found:
        how = ", ".join(dict.fromkeys(_link(rule) for rule in found))
        dynamic = "yes" if any(_is_dynamic(rule) for rule in found) else ""
        limits.update(dict.fromkeys(_RELAXED[word] for rule in found for word in rule.relax))
    else:
        what = standing(op, rules)
        how = "PyTorch's decomposition" if what == "decomposition" else "none"
        dynamic = ""
        limits.update({} if what in (None, "decomposition") else {what: None})
    asked = dict.fromkeys(term for rule in found for term in _needs(rule, rules))
    # What one rule needs says little where another takes the op without.
    if any(not list(_needs(rule, rules)) for rule in found):
        asked = {}
    return [f"`{op.removeprefix('aten.')}`", how, dynamic, ", ".join(asked), str(seen or ""), "; ".join(limits)]


def _link(rule: Rule) -> str:
    path = PurePath(rule.span.file)
    name = re.sub(r"\[\d+\]$", "", rule.id)
    return f"[{name}](../rules/{path.parent.name}/{path.name})"


def _is_dynamic(rule: Rule) -> bool:
    return any(
        isinstance(node, tree.Dim) and node.range is not None
        for test in rule.tests
        if not test.rejects
        for node in _walk(test)
    )


def _needs(rule: Rule, rules: RuleSet) -> Iterator[str]:
    """The terms of a rule's ``needs``, and the versions that its layers are since."""
    yield from (needs.show(term) for term in rule.needs)
    since = [rules.layers[name].since for name in _layers(rule, rules) if name in rules.layers]
    latest = max((version for version in since if version is not None), default=None)
    if latest is not None:
        yield f"trt >= {latest[0]}.{latest[1]}"


def _layers(rule: Rule, rules: RuleSet) -> set[str]:
    found: set[str] = set()
    pending: list[object] = [rule.emit, *rule.steps]
    expanded: set[str] = set()
    while pending:
        for node in _walk(pending.pop()):
            name = getattr(node, "name", None)
            if not isinstance(name, str):
                continue
            if name.startswith("trt."):
                found.add(name)
            elif name in rules.macros and name not in expanded:
                expanded.add(name)
                pending.append(rules.macros[name])
    return found


def _walk(item: object) -> Iterator[object]:
    """A node of the syntax tree and all nodes under it."""
    if isinstance(item, tuple | list):
        for part in item:
            yield from _walk(part)
    elif dataclasses.is_dataclass(item) and not isinstance(item, type):
        yield item
        for part in dataclasses.fields(item):
            yield from _walk(getattr(item, part.name))


__all__ = ["Verified", "table"]
