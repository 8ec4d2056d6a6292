"""Comments that say why something is right as it is: `# allow over-wide: the reason`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.dsl import tree
from engine.errors import Span
from engine.linter.codes import BY_NAME, CODES
from engine.linter.finding import Finding

_ALLOW = re.compile(r"#\s*allow\s+([\w-]+)\s*(?::\s*(.*?))?\s*$")


@dataclass(slots=True)
class Allowance:
    """A comment that allows findings of one code from its line to the end of the item below it, or on its line."""

    code: str
    span: Span
    last: int
    reason: str
    used: bool = False


def allowances(files: Sequence[tree.File]) -> list[Allowance]:
    """The comments of files that allow something."""
    found = []
    for file in files:
        items = sorted(
            (*file.rules, *file.macros, *file.patterns, *file.externs, *file.layers), key=lambda item: item.span.line
        )
        for number, line in enumerate(file.text.split("\n"), start=1):
            match = _ALLOW.search(line) if "allow" in line else None
            if match is None:
                continue
            span = Span(file.path, number, match.start() + 1, number, len(line) + 1)
            last = number
            if not line[: match.start()].strip():  # a line of its own: all of the item below it, or around it
                last = next((item.span.end_line for item in items if item.span.end_line > number), number)
            found.append(Allowance(match.group(1), span, last, match.group(2) or ""))
    return found


def without_allowed(findings: Sequence[Finding], files: Sequence[tree.File]) -> Iterator[Finding]:
    """Findings but for those that a comment allows; comments that allow nothing, and those without a reason."""
    allowed = allowances(files)
    for finding in findings:
        hit = None
        for one in allowed:
            same = one.code.upper() == finding.code or one.code == CODES[finding.code].name
            if same and one.span.file == finding.span.file and one.span.line <= finding.span.line <= one.last:
                hit = one
                one.used = True
        if hit is None:
            yield finding
    for one in allowed:
        if one.code.upper() not in CODES and one.code not in BY_NAME:
            yield Finding("R107", one.span, f"there is no code `{one.code}`", hint="`engine rules lint --explain all`")
        elif not one.used:
            yield Finding("R107", one.span, "this comment allows what is not there", hint="remove it")
        elif not one.reason:
            yield Finding("R107", one.span, "this comment has no reason", hint=f"# allow {one.code}: the reason")


__all__ = ["Allowance", "allowances", "without_allowed"]
