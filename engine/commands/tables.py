"""Tables for people: reports and rule lists, drawn with rich."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.dsl.forms import parts
from engine.dsl.pattern_text import ops_of, written_pattern
from engine.dsl.rule import OneOf, Rule
from engine.matcher.expansion import expand
from engine.report import Fallback, Report
from engine.verify.stages import STAGES

if TYPE_CHECKING:
    from engine.commands.rule_statistics import Statistics
    from engine.dsl.ruleset import RuleSet
    from engine.verify.findings import Finding, Summary

# Columns where the output is no terminal: wide enough to keep rows on a line for grep.
_PIPE_WIDTH = 200
# Nodes listed under one reason; the JSON form of the report has all.
_MOST_NODES = 25

_PHASES = {
    "rules": "read the rules",
    "export": "torch.export",
    "import": "canonical form, inputs",
    "trial": "run the model in PyTorch",
    "mirror": "index the graph",
    "rewrite": "simplify and lower",
    "fold": "compute constants",
    "tile": "choose convert rules",
    "partition": "cut into segments",
    "emit": "write TensorRT networks",
    "cache": "look for kept engines",
    "build": "TensorRT builds engines",
    "load": "TensorRT loads them once",
    "assemble": "put the module together",
}


def _console(file: TextIO, width: int | None = None, color: bool | None = None) -> Console:
    # Reasons and rule ids hold brackets and colons, which are no markup.
    if width is None and "COLUMNS" not in os.environ and not file.isatty():
        width = _PIPE_WIDTH
    return Console(
        file=file,
        width=width,
        no_color=color is False,
        force_terminal=color or None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def render_report(report: Report, file: TextIO, *, width: int | None = None, color: bool | None = None) -> None:
    """Print a report as tables.

    Args:
        width: columns, the terminal's width if None.
        color: force colours on or off; None looks at the terminal.
    """
    console = _console(file, width, color)
    inside = round(report.coverage * report.nodes)
    engines = sum(segment.backend == "tensorrt" for segment in report.segments)
    console.print(
        Text.assemble(
            (report.model, "bold"),
            f": coverage {report.coverage:.1%}, {inside} of {report.nodes} nodes in {engines} engine(s)",
        ),
        soft_wrap=True,
    )
    if report.engine_bytes:
        serves = f" for compute capabilities {', '.join(report.compute_capabilities)}"
        console.print(
            f"{_size(report.engine_bytes)} built by {report.tensorrt}{serves if report.compute_capabilities else ''}",
            soft_wrap=True,
        )
    for winner, loser in report.overridden:
        console.print(f"{winner} overrides {loser}", soft_wrap=True)
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if report.precision.sums_in_half:
        console.print(f"precision: {report.precision}", soft_wrap=True)
    if report.segments:
        console.print()
        console.print(_segments(report))
    for segment in report.segments:
        if segment.cache:
            console.print(f"engine cache: {segment.name}: {segment.cache}", soft_wrap=True)
    if report.fallbacks:
        _print_reasons(console, "in PyTorch, and why", report.fallbacks)
    outside = {(fallback.node, fallback.reason) for fallback in report.fallbacks}
    refused = [refusal for refusal in report.refusals if (refusal.node, refusal.reason) not in outside]
    if refused:
        _print_reasons(console, "rules that gave way to others", refused)
    if report.rules_used:
        console.print()
        console.print(Text("rules used, and how often", style="bold"))
        console.print(", ".join(f"{rule} {count}" for rule, count in report.rules_used.items()))
    if report.timings.phases:
        console.print()
        console.print(_timings(report))


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _table(title: str, *columns: str, right: tuple[str, ...] = (), whole: tuple[str, ...] = ()) -> Table:
    """A table; columns in ``whole`` never break, the others fold where the terminal is narrow."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, title_style="bold")
    for column in columns:
        justify = "right" if column in right else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column in whole)  # type: ignore[arg-type]
    return table


def _fix_widths(table: Table) -> Table:
    """Keep columns that must not break at the width of their longest cell, however narrow the terminal is."""
    for column in table.columns:
        if column.no_wrap:
            column.min_width = max(len(str(cell)) for cell in [column.header, *column.cells])
    return table


def _segments(report: Report) -> Table:
    whole = ("name", "runs in", "nodes", "layers", "size")
    table = _table("segments, in order", *whole, "inputs -> outputs", right=("nodes", "layers", "size"), whole=whole)
    for segment in report.segments:
        table.add_row(
            segment.name,
            "TensorRT" if segment.backend == "tensorrt" else "PyTorch",
            str(segment.nodes),
            str(segment.layers or "-"),
            _size(segment.engine_bytes) if segment.engine_bytes else "-",
            f"{_names(segment.inputs)} -> {_names(segment.outputs)}",
        )
    return _fix_widths(table)


def render_engines(found: dict[str, Any], file: TextIO) -> None:
    """Print what `engine.files.inspect` says of a file's engines."""
    console = _console(file)
    whole = ("engine", "size", "TensorRT", "for")
    table = _table("engines", *whole, "inputs -> outputs", right=("size",), whole=whole)
    for held in found["engines"]:
        ends = [
            ", ".join(f"{name} {_spec(spec)}" for name, spec in zip(names, specs or [None] * len(names), strict=True))
            for names, specs in ((held["inputs"], held["input_specs"]), (held["outputs"], held["output_specs"]))
        ]
        serves = ", ".join(held["compute_capabilities"] or ())
        table.add_row(
            held["name"],
            _size(held["engine_bytes"]),
            held["tensorrt"] or "-",
            f"{held['platform']} {serves}".strip(),
            " -> ".join(ends),
        )
    console.print(_fix_widths(table))
    if found.get("producer"):
        console.print(f"written by {found['producer']} with PyTorch {found['torch']}", soft_wrap=True)


def _spec(spec: Any) -> str:
    if not isinstance(spec, dict):
        return "" if spec is None else f"= {spec}"
    return f"{spec['dtype']}[{', '.join(map(str, spec['shape']))}]"


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 4 else ", ".join(names[:3]) + f", ... ({len(names)})"


def _print_reasons(console: Console, title: str, fallbacks: Iterable[Fallback]) -> None:
    """Print nodes under the reason that they share; whole lines, however narrow the terminal is."""
    groups: dict[str, list[Fallback]] = defaultdict(list)
    for fallback in fallbacks:
        groups[fallback.reason].append(fallback)
    console.print()
    console.print(Text(title, style="bold"))
    for reason, members in groups.items():
        for index, line in enumerate(reason.splitlines()):
            console.print(("  " if index == 0 else "    ") + line, soft_wrap=True)
        for fallback in members[:_MOST_NODES]:
            source = f"  at {_relative(fallback.source)}" if fallback.source else ""
            console.print(f"      {fallback.node}  {fallback.op}{source}", soft_wrap=True)
        if len(members) > _MOST_NODES:
            console.print(f"      ... and {len(members) - _MOST_NODES} more nodes", soft_wrap=True)


def _relative(source: str) -> str:
    path = Path(source)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else source


def _timings(report: Report) -> Table:
    whole = ("phase", "seconds", "what")
    table = _table("time", *whole, "", right=("seconds",), whole=whole)
    total = report.timings.total or 1.0
    for name, seconds in report.timings.phases.items():
        table.add_row(name, f"{seconds:.3f}", _PHASES.get(name, ""), "#" * round(20 * seconds / total))
    table.add_row("ours", f"{report.timings.own:.3f}", "without export, trial, build, load", "")
    table.add_row("total", f"{report.timings.total:.3f}", "", "")
    return _fix_widths(table)


def render_rules(ruleset: RuleSet, file: TextIO, *, op: str | None, kind: str | None) -> None:
    """Print the rules of a set, in order of precedence within an op, inactive ones with their reason.

    Named patterns follow, each with what it stands for.
    """
    table = _table("", "rule", "kind", "op", "where", "says", whole=("rule", "kind"))
    rows = [(rule, "") for rule in ruleset.rules] + [(rule, reason) for rule, reason in ruleset.inactive]
    for rule, reason in sorted(rows, key=lambda row: (row[0].kind, row[0].roots[0].op, row[0].rank, row[0].id)):
        roots = ", ".join(dict.fromkeys(root.op for root in rule.roots))
        if (kind and rule.kind != kind) or (op and not f"{roots}.".startswith(f"{op}.")):
            continue
        where = f"{Path(rule.span.file).name}:{rule.span.line}"
        table.add_row(rule.id, rule.kind, roots, where, f"inactive: {reason}" if reason else _says(rule))
    for name, item in sorted(ruleset.patterns.items()):
        ops = ", ".join(ops_of(item, ruleset.patterns))
        if kind not in (None, "pattern") or (
            op and not any(f"{name}.".startswith(f"{op}.") for name in ops.split(", "))
        ):
            continue
        where = f"{Path(item.span.file).name}:{item.span.line}"
        parameters = ", ".join(parameter.name for parameter in item.parameters)
        table.add_row(f"{name}({parameters})", "pattern", ops, where, written_pattern(item.body))
    _console(file).print(_fix_widths(table))


def _says(rule: Rule) -> str:
    """The doc of a rule, and how many plain patterns it stands for where its pattern has alternatives."""
    if not any(isinstance(part, OneOf) for root in rule.roots for part in parts(root)):
        return rule.doc
    return f"{rule.doc} ({len(expand(rule))} forms)".strip()


def render_rule_stats(statistics: Statistics, file: TextIO) -> None:
    """Print what the rules of a set count: per family, then of all."""
    console = _console(file)
    columns = ("simplify", "lower", "convert", "members", "lines", "tests", "host")
    table = _table("rules per family", "family", *columns, right=columns, whole=("family", *columns))
    for family in (*statistics.families, statistics.total):
        table.add_row(family.name, *(str(getattr(family, column)) for column in columns))
    console.print(_fix_widths(table))
    total = statistics.total
    console.print()
    console.print(
        f"{total.rules} rules in {total.lines} lines: {total.lines / max(total.rules, 1):.1f} lines a rule, "
        f"{total.tests / max(total.rules, 1):.1f} test lines a rule",
        soft_wrap=True,
    )
    ops = statistics.ops
    console.print(
        f"{len(statistics.host_ops)} of {ops} ops with rules use a host function: "
        f"{len(statistics.host_ops) / max(ops, 1):.1%}, at most 5% are meant to",
        soft_wrap=True,
    )
    for op in statistics.host_ops:
        console.print(f"  {op}", soft_wrap=True)
    console.print(
        f"{statistics.host_lines / max(total.rules, 1):.2f} lines of Python a rule that are of single rules (host "
        f"functions, {statistics.host_lines} lines); the whole package has "
        f"{statistics.package_lines / max(total.rules, 1):.0f} a rule",
        soft_wrap=True,
    )
    if statistics.inactive:
        console.print()
        console.print(Text("inactive here", style="bold"))
        for name, reason in statistics.inactive:
            console.print(f"  {name}: {reason}", soft_wrap=True)


def render_finding(finding: Finding, file: TextIO) -> None:
    """Print what a search for wrong instances of one rule found, if that is anything."""
    console = _console(file)
    if finding.wrong:
        if finding.own_line:
            console.print(f"{finding.own_line}: {finding.rule.id} is wrong on its own line:", soft_wrap=True)
        else:
            what = f"{finding.rule.id} is wrong; paste this line to keep it tested:"
            console.print(f"{finding.rule.where}: {what}", soft_wrap=True)
        console.print(f"  {finding.wrong}", soft_wrap=True)
        for line in finding.error.splitlines():
            console.print(f"    {line}", soft_wrap=True)
    elif not finding.testable:
        console.print(f"{finding.rule.where}: {finding.rule.id} {_why_hardly_tested(finding)}", soft_wrap=True)
    for line in finding.crashed:
        what = f"PyTorch or TensorRT ended the process on `{line}`"
        console.print(f"{finding.rule.where}: {finding.rule.id}: {what}", soft_wrap=True)
    refused = sum(finding.refused.values())
    if refused:
        first = finding.refusal.splitlines()[0]
        what = f"TensorRT refused {refused} network(s), of `{finding.refusal_line}` first: {first}"
        console.print(f"{finding.rule.where}: {finding.rule.id}: {what}", soft_wrap=True)


def _why_hardly_tested(finding: Finding) -> str:
    if all(test.rejects for test in finding.rule.tests):
        return "has no test line to vary; add one, such as `test x: f32[2, 3]`"
    if finding.unfit:
        return f"has no test line that describes an instance of it: {finding.unfit}"
    return (
        f"is hardly tested: {sum(finding.agreed.values())} of {sum(finding.tried.values())} variations of its test "
        "lines are instances; it needs lines that vary more"
    )


def render_summary(summary: Summary, file: TextIO) -> None:
    """Print the sum of a search: rules by outcome and kind, instances by stage, branches that no line reaches."""
    console = _console(file)
    for where, words in summary.unneeded.items():
        console.print(f"{where} has `relax {', '.join(words)}`, which no instance needed: remove it", soft_wrap=True)
    for branch in summary.unreached:
        console.print(f"{branch}; add a test line that reaches it", soft_wrap=True)
    columns = ("simplify", "lower", "convert", "all")
    kinds = (*columns[:-1], None)
    table = _table("", "rules", *columns, right=columns, whole=("rules", *columns))
    for outcome in ("fine", "wrong", "hardly tested"):
        table.add_row(outcome, *(str(summary.count(outcome, kind)) for kind in kinds))
    refused = [f.rule.kind for f in summary.findings if any(f.refused.values())]
    table.add_row(
        "TensorRT refused a network", *(str(len([k for k in refused if kind in (None, k)])) for kind in kinds)
    )
    console.print()
    console.print(_fix_widths(table))
    instances = {stage: sum(f.agreed[stage] for f in summary.findings) for stage in STAGES}
    console.print(
        f"{len(summary.findings)} rules: {sum(instances.values())} instances agreed "
        f"({', '.join(f'{count} with sizes {_STAGE_WORDS[stage]}' for stage, count in instances.items())}), "
        f"{summary.count('wrong')} rules wrong, {summary.count('hardly tested')} hardly tested, "
        f"{len(summary.unneeded)} with a needless `relax`",
        soft_wrap=True,
    )
    console.print(
        f"{summary.branches} branches, {len(summary.unreached)} reached by no test line; "
        f"{len(summary.unrejected)} of {summary.guards} guards are false on no line",
        soft_wrap=True,
    )


_STAGE_WORDS: dict[str, str] = {
    "known": "known",
    "marked": "symbolic as marked",
    "all": "symbolic as drawn",
}
