"""The report of a compilation as tables for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.report.console import fix_widths, new_console, new_table, size_text

if TYPE_CHECKING:
    from engine.report.report import Fallback, Report

# Nodes listed under one reason; the JSON form of the report has all.
_MOST_NODES = 25
# Dtypes of quantized weights and values.
_NARROW = frozenset({"int4", "int8", "float8_e4m3fn"})

_PHASES = {
    "start": "load this package",
    "rules": "read the rules",
    "export": "torch.export",
    "import": "canonical form, inputs",
    "trial": "run the model in PyTorch",
    "mirror": "index the graph",
    "rewrite": "simplify and lower",
    "fold": "compute constants",
    "tile": "choose convert rules",
    "partition": "cut into segments",
    "emit": "write TensorRT networks",
    "cache": "look for kept engines",
    "build": "TensorRT builds engines",
    "load": "TensorRT loads them once",
    "assemble": "put the module together",
    "inductor": "Inductor compiles PyTorch segments",
    "agree": "compare with the other ranks",
    "tune": "measure other ways",
    "other": "between the phases",
}


def render_report(
    report: Report, file: TextIO, *, width: int | None = None, color: bool | None = None, times: bool = True
) -> None:
    """Print a report as tables.

    Args:
        width: columns, the terminal's width if None.
        color: force colours on or off; None looks at the terminal.
        times: with the table of times.
    """
    console = new_console(file, width, color)
    inside = round(report.coverage * report.nodes)
    engines = sum(segment.backend == "tensorrt" for segment in report.segments)
    console.print(
        Text.assemble(
            (report.model, "bold"),
            f": coverage {report.coverage:.1%}, {inside} of {report.nodes} nodes in {engines} engine(s)",
        ),
        soft_wrap=True,
    )
    if report.engine_bytes:
        capabilities = ", ".join(report.compute_capabilities)
        serves = f" for compute capabilities {capabilities}" if capabilities else ""
        console.print(
            f"{size_text(report.engine_bytes)} built by {report.tensorrt}{serves}",
            soft_wrap=True,
        )
    for winner, loser in report.overridden:
        console.print(f"{winner} overrides {loser}", soft_wrap=True)
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if report.unbuilt:
        console.print(report.unbuilt, soft_wrap=True)
    if report.precision.sums_in_half:
        console.print(f"precision: {report.precision}", soft_wrap=True)
    narrow = any(product.why or any(dtype in _NARROW for dtype in product.dtypes) for product in report.products)
    held = (*report.weights.before, *report.weights.after)
    if narrow or any(dtype in _NARROW for dtype in held):
        console.print(f"weights: {report.weights}", soft_wrap=True)
    for product in report.products if narrow else ():
        console.print(f"products: {product}", soft_wrap=True)
    if report.segments:
        console.print()
        console.print(_segments(report))
    for segment in report.segments:
        if segment.cache:
            console.print(f"engine cache: {segment.name}: {segment.cache}", soft_wrap=True)
    if report.fallbacks:
        _print_reasons(console, "in PyTorch, and why", report.fallbacks)
    outside = {(fallback.node, fallback.reason) for fallback in report.fallbacks}
    refused = [refusal for refusal in report.refusals if (refusal.node, refusal.reason) not in outside]
    if refused:
        _print_reasons(console, "rules that gave way to others", refused)
    if report.rules_used:
        console.print()
        console.print(Text("rules used, and how often", style="bold"))
        console.print(", ".join(f"{rule} {count}" for rule, count in report.rules_used.items()))
    if report.tuning is not None:
        console.print()
        console.print(str(report.tuning), soft_wrap=True)
    if report.timings.phases and times:
        console.print()
        console.print(_timings(report))


def _segments(report: Report) -> Table:
    whole = ("name", "runs in", "nodes", "layers", "size")
    table = new_table("segments, in order", *whole, "inputs -> outputs", right=("nodes", "layers", "size"), whole=whole)
    for segment in report.segments:
        table.add_row(
            segment.name,
            "TensorRT" if segment.backend == "tensorrt" else "Inductor" if segment.inductor else "PyTorch",
            str(segment.nodes),
            str(segment.layers or "-"),
            size_text(segment.engine_bytes) if segment.engine_bytes else "-",
            f"{_names(segment.inputs)} -> {_names(segment.outputs)}",
        )
    return fix_widths(table)


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 4 else ", ".join(names[:3]) + f", ... ({len(names)})"


def _print_reasons(console: Console, title: str, fallbacks: Iterable[Fallback]) -> None:
    """Print nodes under the reason that they share; whole lines, however narrow the terminal is."""
    groups: dict[str, list[Fallback]] = defaultdict(list)
    for fallback in fallbacks:
        groups[fallback.reason].append(fallback)
    console.print()
    console.print(Text(title, style="bold"))
    for reason, members in groups.items():
        for index, line in enumerate(reason.splitlines()):
            console.print(("  " if index == 0 else "    ") + line, soft_wrap=True)
        for fallback in members[:_MOST_NODES]:
            module = f"  in {fallback.module}" if fallback.module else ""
            source = f"  at {_relative(fallback.source)}" if fallback.source else ""
            console.print(f"      {fallback.node}  {fallback.op}{module}{source}", soft_wrap=True)
        if len(members) > _MOST_NODES:
            console.print(f"      ... and {len(members) - _MOST_NODES} more nodes", soft_wrap=True)


def _relative(source: str) -> str:
    path = Path(source)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else source


def _timings(report: Report) -> Table:
    whole = ("phase", "seconds", "what")
    table = new_table("time", *whole, "", right=("seconds",), whole=whole)
    total = report.timings.total or 1.0
    for name, seconds in report.timings.phases.items():
        table.add_row(name, f"{seconds:.3f}", _PHASES.get(name, ""), "#" * round(20 * seconds / total))
    more = ", inductor" if "inductor" in report.timings.phases else ""
    table.add_row("ours", f"{report.timings.own:.3f}", f"without export, trial, build, load{more}", "")
    table.add_row("total", f"{report.timings.total:.3f}", "", "")
    return fix_widths(table)


__all__ = ["render_report"]
