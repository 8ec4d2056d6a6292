"""Tables of rule lists, statistics, findings and engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.text import Text

from engine.dsl.expansion import expand
from engine.dsl.formatting.pattern_text import ops_of, written_pattern
from engine.dsl.forms import parts
from engine.dsl.rule import OneOf, Rule
from engine.report.console import fix_widths, new_console, new_table, size_text
from engine.verify.stages import STAGES

if TYPE_CHECKING:
    from engine.commands.rule_statistics import Statistics
    from engine.dsl.ruleset import RuleSet
    from engine.errors import Span
    from engine.verify.findings import Finding, Summary
    from engine.verify.mutation.judging import Judged


def render_engines(found: dict[str, Any], file: TextIO) -> None:
    """Print what `engine.files.inspect` says of a file's engines."""
    console = new_console(file)
    whole = ("engine", "size", "TensorRT", "for")
    table = new_table("engines", *whole, "inputs -> outputs", right=("size",), whole=whole)
    for held in found["engines"]:
        ends = [
            ", ".join(f"{name} {_spec(spec)}" for name, spec in zip(names, specs or [None] * len(names), strict=True))
            for names, specs in ((held["inputs"], held["input_specs"]), (held["outputs"], held["output_specs"]))
        ]
        serves = ", ".join(held["compute_capabilities"] or ())
        table.add_row(
            held["name"],
            size_text(held["engine_bytes"]),
            held["tensorrt"] or "-",
            f"{held['platform']} {serves}".strip(),
            " -> ".join(ends),
        )
    console.print(fix_widths(table))
    if found.get("producer"):
        console.print(f"written by {found['producer']} with PyTorch {found['torch']}", soft_wrap=True)


def _spec(spec: Any) -> str:
    if not isinstance(spec, dict):
        return "" if spec is None else f"= {spec}"
    return f"{spec['dtype']}[{', '.join(map(str, spec['shape']))}]"


def render_rules(ruleset: RuleSet, file: TextIO, *, op: str | None, kind: str | None) -> None:
    """Print the rules of a set, in order of precedence within an op, inactive ones with their reason.

    Where not all are built in, it says which package brings a rule, or that it is the user's.

    Named patterns follow, each with what it stands for.
    """
    origins = ruleset.origins
    others = any(origins.get(path) != "built in" for path in ruleset.sources)
    origin = ("from",) if others else ()
    table = new_table("", "rule", "kind", "op", *origin, "where", "says", whole=("rule", "kind", *origin))
    rows = [(rule, "") for rule in ruleset.rules] + [(rule, reason) for rule, reason in ruleset.inactive]
    for rule, reason in sorted(rows, key=lambda row: (row[0].kind, row[0].roots[0].op, row[0].rank, row[0].id)):
        roots = ", ".join(dict.fromkeys(root.op for root in rule.roots))
        if (kind and rule.kind != kind) or (op and not any(f"{root.op}.".startswith(f"{op}.") for root in rule.roots)):
            continue
        where = _where(ruleset, rule.span, others)
        table.add_row(rule.id, rule.kind, roots, *where, f"inactive: {reason}" if reason else _says(rule))
    for name, item in sorted(ruleset.patterns.items()):
        ops = ", ".join(ops_of(item, ruleset.patterns))
        if kind not in (None, "pattern") or (
            op and not any(f"{name}.".startswith(f"{op}.") for name in ops.split(", "))
        ):
            continue
        where = _where(ruleset, item.span, others)
        parameters = ", ".join(parameter.name for parameter in item.parameters)
        table.add_row(f"{name}({parameters})", "pattern", ops, *where, written_pattern(item.body))
    if op and not table.rows:
        what = f"{kind} rule" if kind not in (None, "pattern") else kind or "rule"
        print(f"no {what} has {op} as its root; rules of yours are listed where their files are given", file=file)
        return
    new_console(file).print(fix_widths(table))


def _where(ruleset: RuleSet, span: Span, others: bool) -> tuple[str, ...]:
    """File and line; before that, where there are others than built-in rules, whose they are."""
    place = f"{Path(span.file).name}:{span.line}"
    return (ruleset.origins.get(span.file, "yours"), place) if others else (place,)


def _says(rule: Rule) -> str:
    """The doc of a rule, and how many plain patterns it stands for where its pattern has alternatives."""
    if not any(isinstance(part, OneOf) for root in rule.roots for part in parts(root)):
        return rule.doc
    return f"{rule.doc} ({len(expand(rule))} forms)".strip()


def render_rule_stats(statistics: Statistics, file: TextIO) -> None:
    """Print what the rules of a set count: per family, then of all."""
    console = new_console(file)
    columns = ("simplify", "lower", "convert", "members", "lines", "tests", "host")
    table = new_table("rules per family", "family", *columns, right=columns, whole=("family", *columns))
    for family in (*statistics.families, statistics.total):
        table.add_row(family.name, *(str(getattr(family, column)) for column in columns))
    console.print(fix_widths(table))
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
    console = new_console(file)
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
        what = f"TensorRT rejected {refused} network(s), of `{finding.refusal_line}` first: {first}"
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
    console = new_console(file)
    for where, words in summary.unneeded.items():
        console.print(f"{where} has `relax {', '.join(words)}`, which no instance needed: remove it", soft_wrap=True)
    for branch in summary.unreached:
        console.print(f"{branch}; add a test line that reaches it", soft_wrap=True)
    columns = ("simplify", "lower", "convert", "all")
    kinds = (*columns[:-1], None)
    table = new_table("", "rules", *columns, right=columns, whole=("rules", *columns))
    for outcome in ("fine", "wrong", "hardly tested"):
        table.add_row(outcome, *(str(summary.count(outcome, kind)) for kind in kinds))
    refused = [f.rule.kind for f in summary.findings if any(f.refused.values())]
    table.add_row(
        "TensorRT rejected a network", *(str(len([k for k in refused if kind in (None, k)])) for kind in kinds)
    )
    console.print()
    console.print(fix_widths(table))
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


def render_mutants(found: Sequence[Judged], file: TextIO) -> None:
    """Print which changes of rules no line notices, and count."""
    from engine.verify.mutation.results import share

    console = new_console(file)
    for item in found:
        if item.outcome != "noticed":
            text = "not noticed" if item.outcome == "survived" else "perhaps the same"
            console.print(f"{item.where}: {item.rule}: {item.what}: {text}: {item.reason}", soft_wrap=True)
            if item.line:
                console.print(f"  {item.line}", soft_wrap=True)
    noticed, survived = (sum(item.outcome == what for item in found) for what in ("noticed", "survived"))
    same = len(found) - noticed - survived
    if not found:
        console.print("there is nothing to change: no numbers, flags, enum members or guards", soft_wrap=True)
        return
    console.print(
        f"{len(found)} changes of {len({item.rule for item in found})} rules: {noticed} noticed, {survived} not, "
        f"{same} perhaps the same; {share(found):.1%} noticed of those that mean something else",
        soft_wrap=True,
    )


_STAGE_WORDS: dict[str, str] = {
    "known": "known",
    "marked": "symbolic as marked",
    "all": "symbolic as drawn",
}
