"""Finding what a name stands for."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from engine.dsl.ruleset import RuleSet
from engine.dsl.source import builtin_sources
from engine.dsl.syntax.parser import parse
from engine.dsl.vocabulary import suggestion
from engine.errors import SettingsError
from engine.reference.clauses import clauses
from engine.reference.entry import Entry
from engine.reference.functions import functions
from engine.reference.layers import layers
from engine.reference.macros import macros, macros_of
from engine.reference.ops import op

KINDS = ("layer", "macro", "op", "function", "clause")


def listed(kind: str, ruleset: RuleSet) -> dict[str, Entry]:
    """Everything of a kind, by name; of ops those that rules take."""
    if kind == "op":
        names = sorted({root.op for rule in ruleset.rules for root in rule.roots})
        return {name: entry for name in names if (entry := op(name, ruleset)) is not None}
    return {"layer": layers, "macro": macros, "function": functions, "clause": clauses}[kind]()


def found(name: str, ruleset: RuleSet, kind: str | None = None) -> list[Entry]:
    """What a name stands for: several where a function and a macro, or overloads of an op, are called so.

    Raises:
        SettingsError: nothing is called so.
    """
    tables = {one: listed(one, ruleset) for one in KINDS if one != "op" and kind in (None, one)}
    entries = [table[full] for table in tables.values() for full in (name, f"trt.{name}") if full in table]
    if kind == "op" or (kind is None and not entries):
        entries += _ops(name, ruleset)
    if not entries and kind in (None, "macro"):
        entries += _other_macros(name)
    if not entries:
        known = [*(one for table in tables.values() for one in table), *(_op_names() if kind in (None, "op") else ())]
        advice = suggestion(name, known, "`engine rules doc layer` lists the layers")
        raise SettingsError(f"there is no {kind or 'layer, macro, op, function or clause'} `{name}`; {advice}")
    return entries


def _ops(name: str, ruleset: RuleSet) -> list[Entry]:
    """The op of a name, or all overloads where it has none of that name."""
    name = name if "." in name else f"aten.{name}"
    one = op(name, ruleset)
    if one is not None:
        return [one]
    namespace, _, rest = name.partition(".")
    packet = getattr(getattr(torch.ops, namespace, None), rest, None) if rest and "." not in rest else None
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return []
    overloads = (op(f"{name}.{overload}", ruleset) for overload in packet.overloads() if "out" not in overload)
    return [entry for entry in overloads if entry is not None]


def _other_macros(name: str) -> Iterable[Entry]:
    """Macros of other built-in files."""
    for source in builtin_sources():
        if f"def {name}(" in source.text:
            yield from (e for e in macros_of(parse(source.text, source.path)).values() if e.name == name)


def _op_names() -> list[str]:
    names = (name.replace("::", ".") for name in torch._C._dispatch_get_all_op_names())
    return sorted(name for name in names if name.startswith("aten.") and not name.startswith("aten._"))


__all__ = ["KINDS", "found", "listed"]
