"""``engine rules list``: the rules and named patterns that there are."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import engine


@click.command("list")
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


__all__ = ["list_command"]
