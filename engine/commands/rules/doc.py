"""``engine rules doc``: what rules may write, described."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import click

import engine
from engine.reference.entry import Entry


@click.command()
@click.argument("names", nargs=-1, metavar="[layer|macro|op|function|clause] [NAME]...")
@click.option(
    "--rules", "files", multiple=True, type=click.Path(exists=True, path_type=Path),
    help="A .rules file whose rules are listed at the ops that they take; may be given several times.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def doc(names: tuple[str, ...], files: tuple[Path, ...], as_json: bool) -> None:
    """Describe layers, macros, ops, functions and clauses of the rules language.

    A kind alone lists all of it; NAME describes one, as `engine rules doc trt.slice` or `engine rules doc op gelu`.
    """
    from engine.reference.lookup import KINDS, found, listed

    kind = names[0] if names and names[0] in KINDS else None
    wanted = names[1:] if kind else names
    ruleset = engine.RuleSet.load(*files)
    if wanted:
        entries = [entry for name in wanted for entry in found(name, ruleset, kind)]
        full = True
    else:
        kinds = (kind,) if kind else KINDS[:2] + KINDS[3:]
        entries = [entry for one in kinds for entry in listed(one, ruleset).values()]
        full = False
    if as_json:
        click.echo(json.dumps([_as_dict(entry) for entry in entries], indent=2))
    elif full:
        click.echo("\n\n".join(entry.text() for entry in entries))
    else:
        width = max(len(entry.name) for entry in entries)
        for entry in entries:
            click.echo(f"{entry.name:<{width}}  {_first_sentence(entry)}".rstrip())


def _first_sentence(entry: Entry) -> str:
    if entry.kind == "op":
        return entry.signature
    text = entry.doc or entry.signature
    return re.split(r"\.\s+(?=[A-Z`])", text, maxsplit=1)[0].removesuffix(".") if entry.doc else text


def _as_dict(entry: Entry) -> dict[str, object]:
    made = asdict(entry)
    span = made.pop("span")
    columns = made.pop("columns")
    made["details"] = [dict(zip(columns, row, strict=True)) for row in made["details"]]
    return {**made, "file": span and span["file"], "line": span and span["line"]}


__all__ = ["doc"]
