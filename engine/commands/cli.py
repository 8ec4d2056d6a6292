"""The command line: ``engine compile``, ``coverage``, ``why``, ``trace``, ``inspect``, ``rules``.

Exit codes: 0 fine, 1 the model or a rule is at fault, 2 usage.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

import engine
from engine.commands.models import load_program
from engine.commands.options import AS_JSON, RULES, given_settings, print_report, progress, with_settings
from engine.commands.questions import coverage, trace, why
from engine.commands.rules.check import check
from engine.commands.rules.doc import doc
from engine.commands.rules.fmt import fmt
from engine.commands.rules.lint import lint
from engine.commands.rules.lsp import lsp
from engine.commands.rules.selection import in_files

_MODEL = click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(engine.__version__, prog_name="engine")
@click.option(
    "--import", "modules", multiple=True, metavar="MODULE",
    help="A module of yours that registers ops or host functions of rules; may be given several times.",
)  # fmt: skip
def cli(modules: tuple[str, ...]) -> None:
    """Compile PyTorch models to TensorRT, by rules."""
    if modules:
        sys.path.insert(0, "")  # the current folder, as `python -m` has it
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise engine.EngineError(f"--import {module}: {error}") from error


@cli.command("compile")
@_MODEL
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path),
    help="A .pt2 file for engine.load; or a folder, for plans and report.",
)  # fmt: skip
@RULES
@with_settings
@AS_JSON
def compile_command(model: Path, output: Path, rule_files: tuple[Path, ...], as_json: bool, **settings: Any) -> None:
    """Compile an exported program, and write it to a file, or its engines to a folder."""
    from engine.files.plan_folder import require_free, write_plans

    whole = output.suffix == ".pt2"
    if not whole:
        require_free(output)
    with progress(f"compiling {model.name}"):
        compiled = engine.compile(load_program(model), rules=rule_files, **given_settings(settings))
        assert isinstance(compiled, engine.CompiledModule)  # an exported program knows its shapes
        if whole:
            engine.save(compiled, output)
        else:
            write_plans(compiled, output)
    print_report(compiled.report, as_json)


@cli.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@AS_JSON
def inspect(file: Path, as_json: bool) -> None:
    """Say what a file of engine.save holds: its report, and the engines with names, shapes and TensorRT."""
    import json

    from engine.commands.tables import render_engines
    from engine.files import inspect as inspect_file

    found = inspect_file(file)
    report = found.pop("report", None)
    if as_json:
        click.echo(json.dumps({**found, **({"report": report.as_dict()} if report else {})}, indent=2, default=str))
        return
    if report is not None:
        print_report(report, as_json=False)
        click.echo()
    render_engines(found, sys.stdout)


@cli.group()
def rules() -> None:
    """List and check rules."""


@rules.command("list")
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--op", help="Only rules rooted at this op, e.g. aten.linear.")
@click.option("--kind", type=click.Choice(["simplify", "lower", "convert", "pattern"]), help="Only rules of this kind.")
@click.option("--stats", is_flag=True, help="Counts per family, and how much Python rules need, instead of rules.")
def list_command(files: tuple[Path, ...], op: str | None, kind: str | None, stats: bool) -> None:
    """List the built-in rules and named patterns, with those of FILES."""
    from engine.commands.rule_statistics import Statistics
    from engine.commands.tables import render_rule_stats, render_rules

    ruleset = engine.RuleSet.load(*files)
    if stats:
        render_rule_stats(Statistics.of(ruleset), sys.stdout)
    else:
        render_rules(ruleset, sys.stdout, op=op, kind=kind)


@rules.command("verify")
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--rule", "names", multiple=True, help="Only rules whose id starts with this; may be given several times."
)
@click.option("--examples", default=30, show_default=True, type=click.IntRange(min=1), help="Instances per stage.")
@click.option("--seed", default=0, show_default=True, help="Of what is drawn.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Processes to try rules in.")
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="A file for everything found, as JSON."
)
def verify_command(
    files: tuple[Path, ...], names: tuple[str, ...], examples: int, seed: int, jobs: int, json_file: Path | None
) -> None:
    """Search for instances on which rules are wrong: those of FILES, or the built-in ones.

    Every rule is tried on its test lines and on variations of them: other sizes, ranks, dtypes and numbers, with
    sizes known, symbolic as marked, and symbolic wherever they can be.  Says as well which branches of rules no test
    line reaches, and which `relax` nothing needs.  Needs Hypothesis: pip install "engine[verify]".
    """
    import json

    from engine.commands.tables import render_finding, render_summary
    from engine.linter.advice import advice

    try:
        from engine.verify.workers import verify_in_processes
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        raise engine.EngineError('rules verify needs Hypothesis: pip install "engine[verify]"') from error
    from engine.verify.findings import Summary

    ruleset = engine.RuleSet.load(*files)
    own = in_files(files)
    chosen = [
        rule
        for rule in sorted(ruleset.rules, key=lambda rule: (rule.span.file, rule.span.line, rule.rank))
        if (not files or own(rule)) and (not names or rule.id.startswith(names))
    ]
    unchecked = [item for item in advice(ruleset, own) if item.fatal] if files else []
    for item in unchecked:
        click.echo(str(item), err=True)
    if not chosen:
        if unchecked:
            sys.exit(1)
        raise engine.EngineError("there is no such rule; `engine rules list` shows them")
    findings = []
    paths = [str(path) for path in files]
    with _counting(f"trying {len(chosen)} rules") as count:
        for finding in verify_in_processes(ruleset, chosen, paths, examples=examples, seed=seed, jobs=jobs):
            render_finding(finding, sys.stdout)
            sys.stdout.flush()
            findings.append(finding)
            count(f"{len(findings)} of {len(chosen)}, {finding.rule.id}")
    summary = Summary.of(ruleset, findings)
    render_summary(summary, sys.stdout)
    if json_file is not None:
        drawn = {"examples": examples, "seed": seed, "rules_hash": ruleset.hash}
        json_file.write_text(json.dumps({**drawn, **summary.as_dict()}, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if summary.fine and not unchecked else 1)


@contextmanager
def _counting(title: str) -> Iterator[Callable[[str], None]]:
    """Show how far something is: all the time on a terminal, once a minute in a log."""
    console = Console(stderr=True)
    if not console.is_terminal:
        last = time.monotonic()

        def log(text: str) -> None:
            nonlocal last
            if time.monotonic() - last >= 60:
                last = time.monotonic()
                click.echo(f"{title}: {text}", err=True)

        yield log
        return
    with console.status(title) as status:
        yield lambda text: status.update(f"{title}: {text}")


for _question in (coverage, why, trace):
    cli.add_command(_question)
for _command in (check, doc, fmt, lint, lsp):
    rules.add_command(_command)


def main() -> None:
    """Entry point of the ``engine`` command."""
    try:
        cli()
    except engine.EngineError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
