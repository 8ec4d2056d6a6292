"""How findings are printed: for people, as JSON, or as SARIF; and what their codes mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from engine.linter.codes import CODES, find
from engine.linter.finding import SCHEMA, Finding
from engine.linter.sarif import as_sarif


def with_output(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command with the options for how findings are printed; it gets `output`: "text", "json" or "sarif"."""
    for option in (
        click.option("--sarif", "output", flag_value="sarif", help="Print SARIF 2.1.0 instead of text."),
        click.option("--json", "output", flag_value="json", help="Print JSON instead of text."),
        click.option("--text", "output", flag_value="text", default="text", hidden=True),
        click.option(
            "--explain", metavar="CODE", is_eager=True, expose_value=False, callback=_explain,
            help="Say what a code means, with an example; `all` lists the codes.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def _explain(context: click.Context, option: click.Parameter, name: str | None) -> None:
    if name is None or context.resilient_parsing:
        return
    if name == "all":
        for code in CODES.values():
            click.echo(f"{code.code} {code.name:<12} {code.summary}")
    else:
        click.echo(find(name).explained())
    context.exit()


def print_findings(findings: Sequence[Finding], output: str) -> None:
    """Print findings; as text errors go to stderr."""
    if output == "sarif":
        click.echo(json.dumps(as_sarif(findings), indent=2))
    elif output == "json":
        errors = sum(finding.error for finding in findings)
        counts = {"errors": errors, "warnings": len(findings) - errors}
        found = [finding.as_dict() for finding in findings]
        click.echo(json.dumps({"schema": SCHEMA, **counts, "findings": found}, indent=2))
    else:
        for finding in findings:
            click.echo(str(finding), err=finding.error)


__all__ = ["print_findings", "with_output"]
