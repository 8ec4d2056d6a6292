"""``engine tune``: measure which ways are the fastest for a model on this GPU, and write the decisions to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

import engine
from engine.commands.models import load_model
from engine.commands.options import AS_JSON, INPUTS, RULES, given_settings, with_settings
from engine.compiler import RUNTIMES


@click.command()
@click.argument("model")
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path),
    help='The file for the decisions, as tune="decisions.json" takes it.',
)  # fmt: skip
@click.option("--budget", "tune_budget", type=click.FloatRange(min=0), help="Seconds to spend on measurements.")
@click.option(
    "--tolerance", "tune_tolerance", type=click.FloatRange(min=0),
    help="The largest error of a way, in errors of eager PyTorch in the same dtype.",
)  # fmt: skip
@click.option(
    "--runtime", type=click.Choice(RUNTIMES), default="auto",
    help="interpreter: times of the interpreter on a CPU, to try the command out without a GPU.",
)  # fmt: skip
@RULES
@with_settings
@INPUTS
@AS_JSON
def tune(
    model: str,
    output: Path,
    runtime: str,
    rule_files: tuple[Path, ...],
    inputs: tuple[str, ...],
    as_json: bool,
    **settings: Any,
) -> None:
    """Measure which ways to compute MODEL are the fastest on this GPU, and write the decisions to a file.

    MODEL is an exported program (.pt2), or module:Class, whose inputs are --input or its `example_inputs`.
    """
    from engine.tuning.tuner import check_can_measure

    check_can_measure(runtime)
    if not output.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {output.absolute().parent}", param_hint="--output")
    found = load_model(model, inputs)
    compiled: Any = engine.compile(
        found.model, found.args, found.kwargs, rules=rule_files, runtime=runtime, tune=True, **given_settings(settings)
    )
    tuning = compiled.report.tuning
    tuning.save(output)
    if as_json:
        click.echo(json.dumps(tuning.as_dict(), indent=2))
    else:
        click.echo(str(tuning))
        click.echo(f'wrote {output}: engine.compile(..., tune="{output}") replays it', err=True)


__all__ = ["tune"]
