"""How often each rule was tried in a compilation, and how long it took: ``ENGINE_STATS=1`` prints it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TextIO

from engine.lowering.lowered_graph import LoweredGraph
from engine.report import Report
from engine.rewriter import Trace


def wanted() -> bool:
    """Whether the environment asks for the table: ``ENGINE_STATS=1``."""
    return os.environ.get("ENGINE_STATS", "0") not in ("", "0")


def render_rule_times(report: Report, graphs: Iterable[LoweredGraph], trace: Trace, file: TextIO) -> None:
    """Print a line for each rule that was tried, the slowest first.

    An attempt is a node of an op that the rule has as a root; a match is one whose pattern fits, so that guards and
    right side are evaluated, which is what the time counts.  Of ``convert`` rules only attempts, matches and tiles are
    counted.
    """
    # Printing is not loaded for those who do not ask for it.
    from engine.report.console import fix_widths, new_console, new_table

    attempts: dict[str, int] = {}
    matches: dict[str, int] = {}
    for graph in graphs:
        for rule, count in graph.counts().items():
            attempts[rule] = attempts.get(rule, 0) + count.attempts
            matches[rule] = matches.get(rule, 0) + count.matches
    right = ("attempts", "matches", "used", "ms")
    table = new_table(f"rules tried for {report.model}", "rule", *right, right=right, whole=("rule", *right))
    tried = [rule for rule, count in attempts.items() if count]
    times = {rule: trace.counters[rule].seconds for rule in tried if rule in trace.counters}
    for rule in sorted(tried, key=lambda name: (-times.get(name, 0.0), -attempts[name], name)):
        seconds = f"{times[rule] * 1e3:.2f}" if rule in times else "-"
        used = report.rules_used.get(rule, 0)
        table.add_row(rule, str(attempts[rule]), str(matches[rule]), str(used), seconds)
    new_console(file).print(fix_widths(table))


__all__ = ["render_rule_times", "wanted"]
