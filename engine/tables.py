"""Tables for people: reports and rule lists, drawn with rich."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.table import Table

from engine.report import Report

if TYPE_CHECKING:
    from engine.dsl.ruleset import RuleSet


def render_report(report: Report, file: TextIO, *, width: int | None = None, color: bool | None = None) -> None:
    """Print a report as tables.

    Args:
        width: columns, the terminal's width if None.
        color: force colours on or off; None looks at the terminal.
    """
    console = Console(file=file, width=width, no_color=color is False, force_terminal=color or None, highlight=False)
    console.print(
        f"[bold]{report.model}[/]: coverage {report.coverage:.1%} of {report.nodes} nodes, "
        f"{sum(s.backend == 'tensorrt' for s in report.segments)} engine(s)"
        + (f", {_size(report.engine_bytes)}" if report.engine_bytes else "")
        + (f", {report.tensorrt}" if report.tensorrt else "")
    )
    if report.compute_capabilities:
        console.print(f"serves compute capabilities {', '.join(report.compute_capabilities)}")
    console.print(_segments(report))
    if report.fallbacks:
        console.print(_fallbacks(report))
    if report.timings.phases:
        console.print(_timings(report))
    for winner, loser in report.overridden:
        console.print(f"{winner} overrides {loser}")


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _table(title: str, *columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _segments(report: Report) -> Table:
    table = _table("segments", "name", "runs in", "nodes", "tiles", "layers", "size", "inputs", "outputs",
                   right=("nodes", "tiles", "layers", "size"))  # fmt: skip
    for segment in report.segments:
        table.add_row(
            segment.name,
            segment.backend,
            str(segment.nodes),
            str(segment.tiles),
            str(segment.layers or "-"),
            _size(segment.engine_bytes) if segment.engine_bytes else "-",
            _names(segment.inputs),
            _names(segment.outputs),
        )
    return table


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 4 else ", ".join(names[:3]) + f", ... ({len(names)})"


def _fallbacks(report: Report) -> Table:
    table = _table("in PyTorch, and why", "node", "op", "reason", "model source")
    for fallback in report.fallbacks:
        table.add_row(fallback.node, fallback.op, fallback.reason, fallback.source)
    return table


def _timings(report: Report) -> Table:
    table = _table("time", "phase", "seconds", "", right=("seconds",))
    total = report.timings.total or 1.0
    for name, seconds in report.timings.phases.items():
        table.add_row(name, f"{seconds:.3f}", "#" * round(40 * seconds / total))
    table.add_row("ours", f"{report.timings.own:.3f}", "(without export, build and load)")
    table.add_row("total", f"{report.timings.total:.3f}", "")
    return table


def render_rules(ruleset: RuleSet, file: TextIO, *, op: str | None, kind: str | None) -> None:
    """Print the rules of a set, in order of precedence within an op, inactive ones with their reason."""
    table = _table("", "rule", "kind", "op", "where", "says")
    rows = [(rule, "") for rule in ruleset.rules] + [(rule, reason) for rule, reason in ruleset.inactive]
    for rule, reason in sorted(rows, key=lambda row: (row[0].kind, row[0].roots[0].op, row[0].rank, row[0].id)):
        roots = ", ".join(dict.fromkeys(root.op for root in rule.roots))
        if (kind and rule.kind != kind) or (op and not f"{roots}.".startswith(f"{op}.")):
            continue
        where = f"{Path(rule.span.file).name}:{rule.span.line}"
        table.add_row(rule.id, rule.kind, roots, where, f"inactive: {reason}" if reason else rule.doc)
    Console(file=file, highlight=False).print(table)


def render_rule_stats(ruleset: RuleSet, file: TextIO) -> None:
    """Print rules, lines of rules and use of host functions per op family."""
    families: dict[str, Counter[str]] = defaultdict(Counter)
    seen = set()
    for rule in [*ruleset.rules, *(rule for rule, _ in ruleset.inactive)]:
        name = rule.id.partition("[")[0]
        families[Path(rule.span.file).stem]["members"] += 1
        if (rule.kind, name) in seen:
            continue
        seen.add((rule.kind, name))
        counts = families[Path(rule.span.file).stem]
        counts[rule.kind] += 1
        counts["lines"] += rule.span.end_line - rule.span.line + 1
        counts["host"] += "host." in rule.text
    columns = ("simplify", "lower", "convert", "members", "lines", "host")
    table = _table("", "family", *columns, right=columns)
    total: Counter[str] = Counter()
    for family, counts in sorted(families.items()):
        table.add_row(family, *(str(counts[column]) for column in columns))
        total.update(counts)
    table.add_row("all", *(str(total[column]) for column in columns))
    Console(file=file, highlight=False).print(table)
