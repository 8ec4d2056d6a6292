"""``engine rules lint``: rules that load and are still not what their author means."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import engine
from engine.commands.rules.output import print_findings, with_output
from engine.commands.rules.selection import in_files
from engine.errors import RuleError
from engine.linter.advice import advice
from engine.linter.finding import Finding, of_diagnostics


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
@with_output
def lint(files: tuple[Path, ...], strict: bool, output: str) -> None:
    """Look for what is dead, shadowed, duplicate, untested, unread, over-wide or needless in FILES.

    Without FILES the built-in rules are looked at. What `engine rules check FILES` finds is found too; nothing is run.
    A comment `# allow CODE: reason`, on the line or above the rule, says that something is right as it is.
    """
    from engine.linter.search import lint as search

    try:
        ruleset = engine.RuleSet.load(*files)
        found = search(ruleset, files)
    except RuleError as error:
        if output == "text":
            raise
        print_findings(of_diagnostics(error.diagnostics), output)
        sys.exit(1)
    # Of what both look for the linter says more.
    more = [item for item in advice(ruleset, in_files(files)) if item.code not in ("R104", "R105")] if files else []
    found = [*(Finding(item.code, item.span, item.message, item.rule) for item in more), *found]
    print_findings(found, output)
    errors = sum(finding.error for finding in found)
    warnings = len(found) - errors
    if output == "text":
        click.echo(f"{errors} error{'' if errors == 1 else 's'}, {warnings} warning{'' if warnings == 1 else 's'}")
    sys.exit(1 if errors or (strict and warnings) else 0)


__all__ = ["lint"]
