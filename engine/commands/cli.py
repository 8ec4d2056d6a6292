"""The command line: ``engine compile``, ``coverage``, ``why``, ``trace``, ``tune``, ``inspect``, ``rules``.

Exit codes: 0 fine, 1 the model or a rule is at fault, 2 usage.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import click

import engine
from engine.commands.models import load_program
from engine.commands.options import AS_JSON, RULES, given_settings, print_report, progress, with_settings
from engine.commands.questions import coverage, trace, why
from engine.commands.rules.check import check
from engine.commands.rules.doc import doc
from engine.commands.rules.fmt import fmt
from engine.commands.rules.lint import lint
from engine.commands.rules.lsp import lsp
from engine.commands.rules.searches import mutate, verify
from engine.commands.tuning import tune

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
@click.option(
    "--tune", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Decisions to replay, which `engine tune` wrote.",
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


for _question in (coverage, why, trace, tune):
    cli.add_command(_question)
for _command in (check, doc, fmt, lint, lsp, mutate, verify):
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
