"""``engine rules check``: every mistake in rules files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.commands.rules.output import print_findings, with_output
from engine.commands.rules.selection import in_files
from engine.errors import RuleError
from engine.linter.finding import Finding, of_diagnostics

if TYPE_CHECKING:
    from engine.dsl.ruleset import RuleSet
    from engine.linter.advice import Advice


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path))
@with_output
@click.pass_context
def check(context: click.Context, files: tuple[Path, ...], output: str) -> None:
    """Check the built-in rules, with those of FILES; every mistake is reported.

    Rules of FILES that were not checked, because nothing registers their ops, or that can never apply, are errors too.
    Test lines are not run: `engine rules verify FILES` does that. `engine rules lint FILES` looks for more.
    """
    from engine.dsl.recorded.keeping import without_pytorch
    from engine.dsl.source import package_sources

    try:
        # Modules of users and packages with rules may register ops of their own.
        ruleset, found = without_pytorch(lambda: _checked(files), lambda: not context.obj and not package_sources())
    except RuleError as error:
        if output == "text":
            raise
        print_findings(of_diagnostics(error.diagnostics), output)
        sys.exit(1)
    fatal = sum(item.fatal for item in found)
    if output != "text":
        print_findings([Finding(item.code, item.span, item.message, item.rule) for item in found], output)
        sys.exit(1 if fatal else 0)
    for item in found:
        click.echo(str(item), err=item.fatal)
    outcome = f"{fatal} error{'' if fatal == 1 else 's'}" if fatal else "fine"
    counts = f"{len(ruleset.rules)} rules, {len(ruleset.inactive)} inactive here, {len(ruleset.layers)} layers"
    click.echo(f"{counts}: {outcome}; test lines were not run, `engine rules verify` runs them")
    sys.exit(1 if fatal else 0)


def _checked(files: tuple[Path, ...]) -> tuple[RuleSet, list[Advice]]:
    from engine.dsl.ruleset import RuleSet
    from engine.linter.advice import advice

    ruleset = RuleSet.load(*files)
    return ruleset, advice(ruleset, in_files(files)) if files else []


__all__ = ["check"]
