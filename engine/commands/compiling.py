"""``engine compile`` and ``engine inspect``: compiled models as files, and what files hold."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

import engine
from engine.commands.models import load_program
from engine.commands.options import AS_JSON, RULES, given_settings, print_report, progress, with_settings

_MODEL = click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.command("compile")
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


@click.command()
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


__all__ = ["compile_command", "inspect"]
