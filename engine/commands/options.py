"""Options that several commands have, and how they show that they are at work."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

import engine


class _Percent(click.FloatRange):
    """A number from 0 to 100; ``nan``, which nothing is below, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not in the range 0<=x<=100.", param, ctx)
        return number


PERCENT = _Percent(0, 100)
RULES = click.option(
    "--rules", "rule_files", multiple=True, type=click.Path(exists=True, path_type=Path),
    help="A .rules file or a folder of them; may be given several times.",
)  # fmt: skip
_SETTINGS = (
    click.option("--min-block-size", type=click.IntRange(min=1), help="Smallest engine, in tiles."),
    click.option("--torch-executed-op", "torch_executed_ops", multiple=True, help="An op or node to keep in PyTorch."),
    click.option("--require-full-compilation", is_flag=True, default=None, help="Fail if a node is not in an engine."),
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
INPUTS = click.option(
    "--input", "inputs", multiple=True, metavar="SPEC",
    help="Of module:Class, an input in order, as f32[2, 8], f32[1..8, 3, 224, 224] or name: i64[4].",
)  # fmt: skip


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command with the options for settings."""
    for option in reversed(_SETTINGS):
        command = option(command)
    return command


def given_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that were given."""
    return {name: value for name, value in settings.items() if value not in (None, ())}


@contextmanager
def progress(title: str) -> Iterator[None]:
    """Show on a terminal what is being done."""
    from rich.console import Console

    from engine.report import listening

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(title) as status, listening(lambda phase: status.update(f"{title}: {phase}")):
        yield


def print_report(report: engine.Report, as_json: bool) -> None:
    """Print a report, as tables or as JSON."""
    import json

    from engine.report.table import render_report

    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2, default=str))
    else:
        render_report(report, sys.stdout)


__all__ = ["AS_JSON", "INPUTS", "RULES", "given_settings", "print_report", "progress", "with_settings"]
