"""``docs/releases.md``, from the results."""

from __future__ import annotations

from tests.matrix import installations
from tests.matrix.cells import CHOSEN, PYTHON, ROOT, TENSORRT_RTX, TORCH, Cell
from tests.matrix.installations import Installation
from tests.matrix.results import Result, Results

PAGE = ROOT / "docs" / "releases.md"
_MOST_SHOWN = 8


def page(results: Results, installed: list[Installation] | None = None) -> str:
    """The text of ``docs/releases.md``.

    Args:
        installed: measured installations; those that are written down unless given.
    """
    installed = installations.load() if installed is None else installed
    listed = {cell: result for cell, result in results.items() if cell in _listed()}
    fine = sum(result.fine for result in listed.values())
    tables = "\n\n".join(f"### Python {python}\n\n{_table(python, listed)}" for python in PYTHON)
    chosen = "\n".join(f"- `{name}`" for name in CHOSEN)
    return f"""# Releases

Written by `make test-matrix`; a test checks that it is current.

Which releases of PyTorch, TensorRT-RTX and Python were run together: {len(listed)} of {len(_listed())} cells, {fine} of
them without a failure. In each, the C++ path is built against that PyTorch and knows that TensorRT, engines are
built, and their networks run in the interpreter. No GPU takes part; tests that need one are skipped. These tests run:

{chosen}

`pyproject.toml` allows what passes here. A newer release than these brings one warning, which names it.

A cell has the tests that passed, and the day.

{tables}

## What failed

{_failures(listed)}

## Which TensorRT a release is

{_layouts(listed)}

## Times

Seconds of CPU of `import torch, engine`, and of `engine.compile` of a first small model with all that is loaded for it
and without any cache, with the newest TensorRT-RTX that ran:

{_times(listed)}

## Installing

What the lines of the README cost in a fresh environment, without the cache of pip: seconds of CPU, seconds on the clock
(of a machine whose cores had much other work, with wheels from its disk and others from PyPI: they say little), and the
size of the whole environment. What is not in the table was not measured. `python -m tests.matrix.installing` writes it.

{_installed(installed)}
"""


def write(results: Results) -> None:
    """Write the page."""
    PAGE.write_text(page(results), encoding="utf-8")


def _listed() -> set[Cell]:
    return {Cell(torch, rtx, python) for torch in TORCH for rtx in TENSORRT_RTX for python in PYTHON}


def _table(python: str, results: Results) -> str:
    lines = [
        "| torch | " + " | ".join(f"RTX {rtx}" for rtx in TENSORRT_RTX) + " |",
        "|---" * (len(TENSORRT_RTX) + 1) + "|",
    ]
    for torch in TORCH:
        row = [_cell(results.get(Cell(torch, rtx, python))) for rtx in TENSORRT_RTX]
        lines.append(f"| {torch} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def _cell(result: Result | None) -> str:
    if result is None:
        return "not run"
    if result.problem:
        return f"**did not run**, {result.day}"
    failed = f"**{result.failed} failed**, " if result.failed else ""
    return f"{failed}{result.passed} passed, {result.day}"


def _failures(results: Results) -> str:
    lines = []
    for cell, result in results.items():
        if result.problem:
            lines.append(f"- {cell}: `{result.problem}`")
        elif result.failed:
            shown = ", ".join(f"`{name}`" for name in result.failures[:_MOST_SHOWN])
            lines.append(f"- {cell}: {shown}{', ...' if result.failed > _MOST_SHOWN else ''}")
    return "\n".join(lines) or "Nothing."


def _layouts(results: Results) -> str:
    lines = ["| TensorRT-RTX | layout of the C++ path |", "|---|---|"]
    for rtx in TENSORRT_RTX:
        found = sorted({result.cpp for cell, result in results.items() if cell.tensorrt_rtx == rtx and result.cpp})
        lines.append(f"| {rtx} | {'; '.join(found) or 'not run'} |")
    return "\n".join(lines)


def _times(results: Results) -> str:
    lines = ["| torch | Python | import engine | first compile |", "|---|---|---|---|"]
    for torch in TORCH:
        for python in PYTHON:
            ran = [
                result
                for rtx in reversed(TENSORRT_RTX)
                if (result := results.get(Cell(torch, rtx, python))) is not None and result.import_seconds
            ]
            if ran:
                lines.append(f"| {torch} | {python} | {ran[0].import_seconds:.1f} | {ran[0].compile_seconds:.1f} |")
    return "\n".join(lines)


def _installed(installed: list[Installation]) -> str:
    if not installed:
        return "Not measured."
    lines = [
        "| way | sources | C++ path | torch | RTX | s of CPU | s | MB | day |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in installed:
        cpp = "built" if one.cpp else "left out"
        sources = f"`{one.commit}`" if one.commit else "now"
        about = f"| {one.way} | {sources} | {cpp} | {one.torch} | {one.tensorrt_rtx} "
        lines.append(about + f"| {one.cpu_seconds:,} | {one.seconds:,} | {one.megabytes:,} | {one.day} |")
    lines += ["", "What was run:", ""]
    lines += [f"- {one.way}, {f'`{one.commit}`' if one.commit else 'now'}: `{one.line}`" for one in installed]
    return "\n".join(lines)
