"""Searches of rules: ``engine rules verify`` for instances on which they are wrong, ``mutate`` for lines that miss."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

import engine
from engine.commands.options import PERCENT
from engine.commands.rules.selection import in_files

if TYPE_CHECKING:
    from engine.dsl.rule import Rule
    from engine.dsl.ruleset import RuleSet

# Seconds between two lines of a log that say how far a search is.
_BETWEEN = 15.0

_FILES = click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path))
_RULE = click.option(
    "--rule", "names", multiple=True, help="Only rules whose id starts with this; may be given several times."
)
_SEED = click.option("--seed", default=0, show_default=True, help="Of what is drawn.")
_JOBS = click.option(
    "--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Processes to try rules in."
)
_JSON = click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="A file for everything found, as JSON."
)


@click.command()
@_FILES
@_RULE
@click.option("--examples", default=30, show_default=True, type=click.IntRange(min=1), help="Instances per stage.")
@_SEED
@_JOBS
@_JSON
def verify(
    files: tuple[Path, ...], names: tuple[str, ...], examples: int, seed: int, jobs: int, json_file: Path | None
) -> None:
    """Search for instances on which rules are wrong: those of FILES, or the built-in ones.

    Every rule is tried on its test lines and on variations of them: other sizes, ranks, dtypes and numbers, with
    sizes known, symbolic as marked, and symbolic wherever they can be.  Says as well which branches of rules no test
    line reaches, and which `relax` nothing needs.  Needs Hypothesis: pip install "engine[verify]".
    """
    from engine.commands.tables import render_finding, render_summary
    from engine.linter.advice import advice

    with _hypothesis():
        from engine.verify.workers import verify_in_processes
    from engine.verify.findings import Summary

    ruleset = engine.RuleSet.load(*files)
    chosen = _chosen(ruleset, files, names)
    unchecked = [item for item in advice(ruleset, in_files(files)) if item.fatal] if files else []
    for item in unchecked:
        click.echo(str(item), err=True)
    if not chosen:
        if unchecked:
            sys.exit(1)
        raise engine.EngineError("there is no such rule; `engine rules list` shows them")
    findings = []
    paths = [str(path) for path in files]
    with counting(f"trying {len(chosen)} rules") as count:
        for finding in verify_in_processes(ruleset, chosen, paths, examples=examples, seed=seed, jobs=jobs):
            render_finding(finding, sys.stdout)
            sys.stdout.flush()
            findings.append(finding)
            wrong = sum(bool(other.wrong) for other in findings)
            count(f"{len(findings)} of {len(chosen)}, {wrong} wrong, {finding.rule.id}")
    summary = Summary.of(ruleset, findings)
    render_summary(summary, sys.stdout)
    if json_file is not None:
        drawn = {"examples": examples, "seed": seed, "rules_hash": ruleset.hash}
        json_file.write_text(json.dumps({**drawn, **summary.as_dict()}, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if summary.fine and not unchecked else 1)


@click.command()
@_FILES
@_RULE
@click.option(
    "--examples", default=40, show_default=True, type=click.IntRange(min=1),
    help="Instances to draw for a change that no line notices.",
)  # fmt: skip
@_SEED
@_JOBS
@click.option("--fail-under", type=PERCENT, metavar="PERCENT", help="Exit with 1 below this share.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file for everything found, as JSON, written while the search goes on; what it holds of rules that have not "
    "changed is not tried again.",
)
@click.option(
    "--page", "page_file", type=click.Path(dir_okay=False, path_type=Path),
    help="A Markdown file for the changes that no line notices, with the reasons.",
)  # fmt: skip
def mutate(
    files: tuple[Path, ...],
    names: tuple[str, ...],
    examples: int,
    seed: int,
    jobs: int,
    fail_under: float | None,
    json_file: Path | None,
    page_file: Path | None,
) -> None:
    """Change rules in small ways, and say which change no test line notices: of FILES, or the built-in ones.

    Numbers, flags, enum members and comparisons are changed, and guards left out, one at a time.  A change that no line
    notices comes with a line that would, if one was drawn; without one it may mean the same, and does not count.
    """
    from engine.commands.tables import render_mutants

    with _hypothesis():
        from engine.verify.mutation.processes import judge_rules
    from engine.verify.branches import base
    from engine.verify.mutation.mutants import by_family
    from engine.verify.mutation.page import page
    from engine.verify.mutation.results import Results, share

    ruleset = engine.RuleSet.load(*files)
    chosen = {(rule.kind, base(rule)) for rule in _chosen(ruleset, files, names)}
    if not chosen:
        raise engine.EngineError("there is no such rule; `engine rules list` shows them")
    # All members of a family, where one is among them.
    every = [rule for rule in _in_order(ruleset) if (rule.kind, base(rule)) in chosen]
    families = by_family(every, base)
    results = Results(ruleset, examples, seed, json_file)
    left = results.take_over(families)
    if len(left) < len(families):
        click.echo(f"{len(families) - len(left)} of {len(families)} rules are in {json_file} already", err=True)
    done = len(families) - len(left)
    try:
        with counting("changing rules") as count:
            paths = [str(path) for path in files]
            for members, judged in judge_rules(ruleset, left, paths, examples=examples, seed=seed, jobs=jobs):
                results.add(members, judged)
                done += 1
                found = results.found
                survived = sum(item.outcome == "survived" for item in found)
                last = f"{len(found)} changes, {survived} of them not noticed, {base(members[0])}"
                count(f"{done} of {len(families)} rules, {last}")
    finally:
        results.write(complete=done == len(families))
    judged = results.in_order(families)
    render_mutants(judged, sys.stdout)
    if page_file is not None:
        page_file.write_text(page(judged, ruleset, examples), encoding="utf-8")
    reached = share(judged)
    if fail_under is not None and 100 * reached < fail_under:
        click.echo(f"{reached:.1%} of the changes are noticed, which is under --fail-under {fail_under:g}", err=True)
        sys.exit(1)


def _chosen(ruleset: RuleSet, files: tuple[Path, ...], names: Sequence[str]) -> list[Rule]:
    """The active rules of some files, or all built-in ones and those of packages, in the order of the text."""
    own = in_files(files)
    return [
        rule
        for rule in _in_order(ruleset)
        if (not files or own(rule)) and (not names or rule.id.startswith(tuple(names)))
    ]


def _in_order(ruleset: RuleSet) -> list[Rule]:
    """Active rules in the order of the text."""
    return sorted(ruleset.rules, key=lambda rule: (rule.span.file, rule.span.line, rule.rank))


@contextmanager
def _hypothesis() -> Iterator[None]:
    """Say what to install where Hypothesis is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        raise engine.EngineError('this needs Hypothesis: pip install "engine[verify]"') from error


@contextmanager
def counting(title: str) -> Iterator[Callable[[str], None]]:
    """Show how far something is: all the time on a terminal, every quarter of a minute in a log."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        last = time.monotonic()

        def log(text: str) -> None:
            nonlocal last
            if time.monotonic() - last >= _BETWEEN:
                last = time.monotonic()
                click.echo(f"{title}: {text}", err=True)

        yield log
        return
    with console.status(title) as status:
        yield lambda text: status.update(f"{title}: {text}")


__all__ = ["counting", "mutate", "verify"]
