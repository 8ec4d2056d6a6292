"""Commands that answer questions and build nothing: ``engine coverage``, ``engine why``, ``engine trace``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click

import engine
from engine.commands.coverage_tables import (
    BY,
    read_run,
    render_costly,
    render_counts,
    render_difference,
    render_gains,
    render_summary,
    together,
)
from engine.commands.models import load_model
from engine.commands.options import (
    AS_JSON,
    INPUTS,
    PERCENT,
    RULES,
    given_settings,
    print_report,
    progress,
    with_settings,
)
from engine.errors import EngineError
from engine.observers import RewriteEvent
from engine.report import SCHEMA, Report
from engine.report.picture.page import picture

_MODEL = click.argument("model")


def _report(
    text: str, inputs: tuple[str, ...], rule_files: tuple[Path, ...], settings: dict[str, Any], *, networks: bool
) -> Report:
    with progress(f"reading {text}"):
        found = load_model(text, inputs)
        given = given_settings(settings)
        report = engine.coverage(found.model, found.args, found.kwargs, rules=rule_files, networks=networks, **given)
        report.model = found.name
    return report


@click.command()
@click.argument("models", nargs=-1, required=True)
@RULES
@with_settings
@INPUTS
@click.option("--networks/--no-networks", default=True, help="Write the TensorRT networks, to see what it refuses.")
@click.option("--by", type=click.Choice(BY), help="Count nodes by this.")
@click.option("--gains", is_flag=True, help="Which rule or setting would bring most nodes into engines.")
@click.option(
    "--diff", "other", metavar="OTHER",
    help="Compare with OTHER: an earlier run (the .json of --json), other rules (a .rules file or a folder), no rules "
    "of yours (builtin), or a setting (min_block_size=1).",
)  # fmt: skip
@click.option("--unused", is_flag=True, help="List rules that fired in none of the models: those of --rules, or all.")
@click.option(
    "--html", "page", type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the partitioned graph as one page for a browser; of one model.",
)  # fmt: skip
@click.option("--fail-under", type=PERCENT, metavar="PERCENT", help="Exit with 1 below this coverage.")
@AS_JSON
def coverage(
    models: tuple[str, ...],
    rule_files: tuple[Path, ...],
    inputs: tuple[str, ...],
    networks: bool,
    by: str | None,
    gains: bool,
    other: str | None,
    unused: bool,
    page: Path | None,
    fail_under: float | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Say what of MODELS would be in engines, and why the rest would not.

    A model is an exported program (.pt2), or module:Class, whose inputs are --input or its `example_inputs`.
    """
    if as_json and other is not None:
        raise click.UsageError("--diff prints what changed: keep two runs of --json to compare them otherwise")
    if page is not None and len(models) > 1:
        raise click.UsageError("--html draws one model: call it for each of them")
    if page is not None and not page.parent.is_dir():
        raise click.BadParameter(f"there is no folder {page.parent}", param_hint="--html")
    compared = _other(other, rule_files, settings) if other is not None else None
    reports = [_report(model, inputs, rule_files, settings, networks=networks) for model in models]
    if page is not None:
        page.write_text(picture(reports[0]), encoding="utf-8")
        click.echo(f"wrote {page}", err=True)
    data = [report.as_dict() for report in reports]
    if as_json:
        if gains:
            for report, entry in zip(reports, data, strict=True):
                entry["gains"] = [gain._asdict() for gain in report.gains()]
        whole: dict[str, Any] = data[0] if len(data) == 1 else {"schema": SCHEMA, "models": data}
        click.echo(json.dumps(whole, indent=2, default=str))
    elif compared is not None:
        before = compared if isinstance(compared, dict) else {}
        if not isinstance(compared, dict):
            files, changed = compared
            for model in models:
                report = _report(model, inputs, files, changed, networks=networks)
                before[report.model] = report.as_dict()
        render_difference(before, {entry["model"]: entry for entry in data}, sys.stdout)
    elif by is not None:
        render_counts(reports, by, sys.stdout)
    elif gains or unused:
        render_summary(reports, sys.stdout)
    else:
        for report in reports:
            print_report(report, as_json=False)
        if len(reports) > 1:
            render_summary(reports, sys.stdout)
    if gains and not as_json:
        for report in reports:
            click.echo(f"\n{report.model}")
            render_gains(report.gains(), sys.stdout)
    if not as_json:
        _print_unused(reports, rule_files, everything=unused)
    reached = 100 * together(reports)
    if fail_under is not None and reached < fail_under:
        click.echo(f"coverage {reached:.1f}% is under --fail-under {fail_under:g}", err=True)
        sys.exit(1)


def _other(text: str, rule_files: tuple[Path, ...], settings: dict[str, Any]) -> Any:
    """What to compare with: the models of a run, or rules and settings to run with."""
    path = Path(text)
    if not text:
        raise click.BadParameter("it is empty; name a run, rules or a setting", param_hint="--diff")
    if text.endswith(".json"):
        if not path.exists():
            raise click.BadParameter(f"there is no file {text}", param_hint="--diff")
        return read_run(path)
    if text == "builtin":
        return (), settings
    if path.exists():
        return (path,), settings
    name, equals, value = text.partition("=")
    if not equals:
        hint = "name a .json file of --json, a .rules file, builtin, or a setting as min_block_size=1"
        raise click.BadParameter(f"{text!r} is neither a run, nor rules, nor a setting; {hint}", param_hint="--diff")
    words = {"true": True, "false": False, "none": None}
    parsed: Any = words.get(value.lower(), int(value) if value.lstrip("-").isdigit() else value)
    return rule_files, {**settings, name.strip().replace("-", "_"): parsed}


def _print_unused(reports: list[Report], rule_files: tuple[Path, ...], *, everything: bool) -> None:
    """Print the rules that no model used."""
    if not (rule_files or everything):
        return
    from engine.pipeline.compilation import load_rules

    ruleset = load_rules(rule_files)
    used = {rule for report in reports for rule in report.rules_used}
    idle = [rule.id for rule in ruleset.rules if rule.id not in used and (rule.level > 0 or not rule_files)]
    if idle:
        click.echo(f"\nrules that fired in no model: {', '.join(idle)}")


@click.command()
@_MODEL
@click.argument("node", required=False)
@RULES
@with_settings
@INPUTS
@click.option("--fallbacks", is_flag=True, help="All nodes that stay in PyTorch, most costly first.")
@click.option("--new", "new_file", type=click.Path(path_type=Path), help="Write the rule to begin with to this file.")
@AS_JSON
def why(
    model: str,
    node: str | None,
    rule_files: tuple[Path, ...],
    inputs: tuple[str, ...],
    fallbacks: bool,
    new_file: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Say why NODE of MODEL runs where it does: each rule of its op, with the test that failed and what it saw."""
    if (node is None) != fallbacks:
        raise click.UsageError("name a NODE, or ask for --fallbacks; `engine why MODEL --fallbacks` shows their names")
    if new_file is not None and node is None:
        raise click.UsageError("--new writes a rule for one NODE")
    if new_file is not None and not new_file.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {new_file.absolute().parent}", param_hint="--new")
    if new_file is not None and new_file.exists():
        raise EngineError(f"{new_file} is there already: name another file, and join them by hand")
    report = _report(model, inputs, rule_files, settings, networks=False)
    if node is None:
        costly = report.costly()
        if as_json:
            click.echo(json.dumps({"schema": SCHEMA, "fallbacks": [item._asdict() for item in costly]}, indent=2))
        else:
            render_costly(costly, sys.stdout)
        return
    answer = report.why(node)
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, **answer.as_dict()}, indent=2))
    else:
        click.echo(str(answer), nl=False)
    if new_file is not None:
        if not answer.skeleton and answer.now:
            raise EngineError(f"{node} was rewritten: ask about {' or '.join(answer.now)}, which are there instead")
        if not answer.skeleton:
            raise EngineError(f"{answer.op} has rules already: the first of them shows how to write another")
        new_file.write_text(answer.skeleton, encoding="utf-8")
        # An op of a library is only known where something registers it, as the module of the model does.
        imported = f"--import {model.partition(':')[0]} " if ":" in model and not answer.op.startswith("aten.") else ""
        told = f"{new_file} was written; say what it emits, then: engine {imported}rules check {new_file}"
        click.echo(told, err=True)


@click.command()
@_MODEL
@RULES
@with_settings
@INPUTS
@click.option("--rule", "names", multiple=True, help="Only rules whose id is this; * stands for anything.")
@click.option("--node", "nodes", multiple=True, help="Only rewrites of this node, and of what came of it.")
def trace(
    model: str,
    rule_files: tuple[Path, ...],
    inputs: tuple[str, ...],
    names: tuple[str, ...],
    nodes: tuple[str, ...],
    **settings: Any,
) -> None:
    """Print each rewrite of MODEL in order: the rule, and the nodes before and after it."""
    followed = set(nodes)
    seen: set[str] = set()
    count = shown = 0

    def print_rewrite(event: RewriteEvent) -> None:
        nonlocal count, shown
        count += 1
        seen.update(event.before)
        if names and not any(fnmatchcase(event.rule, name) for name in names):
            return
        if nodes and not followed & event.before.keys():
            return
        followed.update(event.after or ())
        shown += 1
        click.echo(f"{count}  {event.kind} {event.rule} ({event.where})")
        click.echo(f"    {_listed(event.before)}\n    -> {_listed(event.after or {}) or 'an existing value'}")

    with engine.observe(after_rewrite=print_rewrite):
        report = _report(model, inputs, rule_files, settings, networks=False)
    for node in nodes:
        if node not in seen:
            report.why(node)  # raises, with the nearest names, where there is no such node
    click.echo(f"{shown} of {count} rewrites" if names or nodes else f"{count} rewrites")


def _listed(nodes: Mapping[str, str]) -> str:
    return ", ".join(f"{name} = {op}" for name, op in nodes.items())


__all__ = ["coverage", "trace", "why"]
