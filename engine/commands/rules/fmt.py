"""``engine rules fmt``: write rules files in their one layout."""

from __future__ import annotations

import difflib
import os
import sys
import tempfile
from pathlib import Path

import click

from engine.commands.rules.output import print_findings, with_output
from engine.dsl.formatting.formatter import formatted
from engine.dsl.source import USER, Source, read_sources
from engine.errors import RuleError, Span
from engine.linter.finding import Finding, of_diagnostics


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path, allow_dash=True))
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a file would change.")
@click.option("--diff", is_flag=True, help="Write nothing; print what would change.")
@with_output
def fmt(files: tuple[Path, ...], check: bool, diff: bool, output: str) -> None:
    """Write FILES, and all rules files in folders, in the one layout of rules files; `-` is stdin, to stdout.

    What a file says stays the same, and so do its comments. Lines have at most 120 columns, but for words that are
    longer. A file that is fine is not touched.
    """
    if files == (Path("-"),):
        click.echo(formatted(sys.stdin.read().replace("\r\n", "\n"), "<stdin>"), nl=False)
        return
    findings: list[Finding] = []
    changed = 0
    sources = read_sources(files, level=USER)
    for source in sources:
        try:
            text = formatted(source.text, source.path)
        except RuleError as error:
            findings += of_diagnostics(error.diagnostics)
            if output == "text":
                click.echo(str(error), err=True)
            continue
        if text == source.text:
            continue
        changed += 1
        if diff:
            _show(source, text)
        elif check:
            findings.append(_unformatted(source, text))
        else:
            _write(Path(source.path), text)
            click.echo(f"formatted {source.path}", err=output != "text")
    if check or output != "text":
        print_findings([one for one in findings if output != "text" or one.code == "R201"], output)
    if output == "text" and not diff:
        done = "would change" if check else "formatted"
        click.echo(f"{len(sources)} file{'' if len(sources) == 1 else 's'}, {changed} {done}", err=check)
    broken = any(finding.code == "R001" for finding in findings)
    sys.exit(1 if broken or (changed and (check or diff)) else 0)


def _unformatted(source: Source, text: str) -> Finding:
    """What to say of a file that would change: the first line that does."""
    old, new = source.text.split("\n"), text.split("\n")
    line = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    there = old[line] if line < len(old) else ""
    span = Span(source.path, line + 1, 1, line + 1, len(there) + 1)
    return Finding("R201", span, "this line would be laid out otherwise", hint=f"engine rules fmt {source.path}")


def _show(source: Source, text: str) -> None:
    old, new = source.text.splitlines(keepends=True), text.splitlines(keepends=True)
    for line in difflib.unified_diff(old, new, source.path, source.path):
        click.echo(line, nl=line.endswith("\n") is False)


def _write(path: Path, text: str) -> None:
    """Write a file all at once, with its own line ends and mode."""
    path = path.resolve()
    if b"\r\n" in path.read_bytes():
        text = text.replace("\n", "\r\n")
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            file.write(text.encode())
        os.chmod(name, path.stat().st_mode & 0o7777)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


__all__ = ["fmt"]
