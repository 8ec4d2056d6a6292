"""Coverage of several models counted, compared, and what changes would win."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from engine.errors import FileError
from engine.report import SCHEMA, Report
from engine.report.console import fix_widths, new_console, new_table
from engine.report.why import Costly, Gain

BY = ("op", "reason", "module", "rule", "segment")
"""What nodes are counted by."""


def counted(reports: Sequence[Report], by: str) -> list[tuple[str, int, int]]:
    """(key, nodes, nodes in engines) of all models together, most nodes outside engines first."""
    nodes: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    for report in reports:
        for decision in report.query():
            key = str(getattr(decision, by)).partition("\n")[0] or "-"
            if by == "segment" and len(reports) > 1:
                key = f"{report.model}: {key}"
            nodes[key] += 1
            inside[key] += decision.color == "tensorrt"
    found = [(key, count, inside[key]) for key, count in nodes.items()]
    return sorted(found, key=lambda row: (row[2] - row[1], -row[1], row[0]))


def render_counts(reports: Sequence[Report], by: str, file: TextIO) -> None:
    """Print what nodes are counted by, with how many there are and how many of them are in engines."""
    table = new_table(f"nodes by {by}", by, "nodes", "in engines", right=("nodes", "in engines"), whole=("nodes",))
    for key, count, inside in counted(reports, by):
        table.add_row(key, str(count), f"{inside / count:.0%}")
    new_console(file).print(fix_widths(table))


def render_summary(reports: Sequence[Report], file: TextIO) -> None:
    """Print a line for each model, and one for all."""
    table = new_table("", "model", "nodes", "engines", "coverage", right=("nodes", "engines", "coverage"))
    for report in reports:
        engines = sum(segment.backend == "tensorrt" for segment in report.segments)
        table.add_row(report.model, str(report.nodes), str(engines), f"{report.coverage:.1%}")
    if len(reports) > 1:
        table.add_row("all", str(sum(report.nodes for report in reports)), "", f"{together(reports):.1%}")
    new_console(file).print(fix_widths(table))


def together(reports: Iterable[Report]) -> float:
    """Nodes in engines of all models / nodes of all models that compute."""
    nodes = inside = 0.0
    for report in reports:
        nodes += report.nodes
        inside += report.coverage * report.nodes
    return inside / nodes if nodes else 1.0


def render_gains(gains: Sequence[Gain], file: TextIO) -> None:
    """Print what changes would win."""
    right = ("nodes won", "coverage", "segments", "merged")
    table = new_table("what would win most", "with", *right, right=right)
    for gain in gains:
        table.add_row(gain.what, str(gain.nodes), f"{gain.coverage:.1%}", str(gain.segments), str(gain.merged))
    console = new_console(file)
    console.print(fix_widths(table) if gains else "no rule for one op, and no setting, would bring more into engines")


def render_costly(costly: Sequence[Costly], file: TextIO) -> None:
    """Print fallbacks, most costly first."""
    console = new_console(file)
    for item in costly:
        place = " at ".join(filter(None, (item.module and f"in {item.module}", item.source)))
        console.print(f"{item.node}  {item.op}  {item.elements} elements  {place}".rstrip(), soft_wrap=True)
        for line in item.reason.splitlines():
            console.print(f"    {line}", soft_wrap=True)
    if not costly:
        console.print("every node is in an engine")


def read_run(path: Path) -> dict[str, dict[str, Any]]:
    """The models of an earlier ``engine coverage --json``, by name.

    Raises:
        FileError: it is no such file, or of another schema.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        models = data.get("models", [data])
        found = {str(model["model"]): model for model in models}
        for model in models:
            if model["schema"] != SCHEMA:
                raise FileError(f"{path} has schema {model['schema']}, this version reads {SCHEMA}: run it again")
            for decision in model["decisions"]:
                decision["node"], decision["color"]
    except FileError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{path} is no output of `engine coverage --json`: {type(error).__name__}: {error}") from error
    return found


def render_difference(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]], file: TextIO) -> None:
    """Print how coverage changed, and which nodes changed their place or their rule."""
    console = new_console(file)
    for name, new in after.items():
        old = before.get(name)
        if old is None:
            console.print(f"{name}: not there before, now {new['coverage']:.1%}", soft_wrap=True)
            continue
        console.print(f"{name}: coverage {old['coverage']:.1%} -> {new['coverage']:.1%}", soft_wrap=True)
        was = {decision["node"]: decision for decision in old["decisions"]}
        now = {decision["node"]: decision for decision in new["decisions"]}
        for node in dict.fromkeys([*was, *now]):
            line = _changed(was.get(node), now.get(node))
            if line:
                console.print(f"  {node}  {line}", soft_wrap=True)
    for name in before.keys() - after.keys():
        console.print(f"{name}: not there any more", soft_wrap=True)


def _changed(was: dict[str, Any] | None, now: dict[str, Any] | None) -> str:
    if was is None or now is None:
        there = now or was or {}
        return f"{there['op']}: {'new' if was is None else 'gone'}, {_place(there)}"
    if (was["color"], was["rule"]) == (now["color"], now["rule"]):
        return ""
    return f"{now['op']}: {_place(was)} -> {_place(now)}"


def _place(decision: dict[str, Any]) -> str:
    if decision["color"] == "tensorrt":
        return str(decision["rule"])
    return f"PyTorch ({str(decision['reason']).partition(chr(10))[0]})"


__all__ = [
    "BY",
    "counted",
    "read_run",
    "render_costly",
    "render_counts",
    "render_difference",
    "render_gains",
    "render_summary",
    "together",
]
