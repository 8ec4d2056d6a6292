"""Run releases of PyTorch, TensorRT-RTX and Python against each other, and write the results down.

    python -m tests.matrix                       every cell that these sources have not run in; goes on where it ended
    python -m tests.matrix --missing             only cells that have never run
    python -m tests.matrix --torch 2.14.1 --python 3.12 --again
    python -m tests.matrix --times               measure the times of cells that have run once more
    python -m tests.matrix --table               what is known so far
    python -m tests.matrix --docs                write docs/releases.md from it

Environments lie in ``build/matrix`` unless ``--folder`` names another; of all releases they take some 40 GB.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tests.matrix import page
from tests.matrix.cells import PYTHON, ROOT, TENSORRT_RTX, TORCH, Cell, cells, digest
from tests.matrix.environments import Environments, Unavailable
from tests.matrix.results import Results, load, save
from tests.matrix.running import run, times


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.matrix", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", action="append", choices=TORCH, help="only these")
    parser.add_argument("--rtx", action="append", choices=TENSORRT_RTX, help="only these")
    parser.add_argument("--python", action="append", choices=PYTHON, help="only these")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "matrix", help="where the environments are")
    parser.add_argument("--most", type=int, default=1 << 30, help="end after so many cells")
    parser.add_argument("--again", action="store_true", help="also cells that these sources have run in")
    parser.add_argument("--missing", action="store_true", help="only cells that have never run")
    parser.add_argument("--times", action="store_true", help="only measure the times of cells that have run again")
    parser.add_argument("--table", action="store_true", help="only show what is known")
    parser.add_argument("--docs", action="store_true", help="only write docs/releases.md")
    options = parser.parse_args()
    console = Console()
    results = load()
    if not options.table and not options.docs:
        _run(_asked(options, results), options, results, console)
    if not options.table:
        page.write(results)
    for python in PYTHON:
        console.print(_table(python, results))


def _asked(options: argparse.Namespace, results: Results) -> list[Cell]:
    """The cells that the options name and that are left to run."""
    sources = digest()
    chosen = []
    for cell in cells():
        known = results.get(cell)
        if options.times:
            left = known is not None and not known.problem
        elif options.missing:
            left = known is None
        else:
            left = options.again or known is None or known.sources != sources
        named = ((options.torch, cell.torch), (options.rtx, cell.tensorrt_rtx), (options.python, cell.python))
        if left and all(not some or one in some for some, one in named):
            chosen.append(cell)
    return chosen[: options.most]


def _run(asked: list[Cell], options: argparse.Namespace, results: Results, console: Console) -> None:
    environments = Environments(options.folder.resolve())
    clocks = TimeElapsedColumn(), TimeRemainingColumn()
    columns = (TextColumn("{task.description:58}"), BarColumn(), MofNCompleteColumn(), *clocks)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(asked))
        for cell in asked:
            progress.update(task, description=str(cell))
            try:
                if options.times:
                    result = dataclasses.replace(results[cell], **times(cell, environments))
                else:
                    result = run(cell, environments)
            except Unavailable as reason:
                console.print(f"{cell}: {reason}", markup=False, highlight=False, soft_wrap=True)
            else:
                # Another run may have written since this one began.
                results.update({**load(), cell: result})
                save(results)
                said = result.problem or f"{result.passed} passed, {result.failed} failed, {result.seconds:.0f} s"
                console.print(f"{cell}: {said}", markup=False, highlight=False, soft_wrap=True)
            progress.advance(task)


def _table(python: str, results: Results) -> Table:
    table = Table(f"Python {python}", *(f"RTX {rtx}" for rtx in TENSORRT_RTX))
    for torch in TORCH:
        row = []
        for rtx in TENSORRT_RTX:
            result = results.get(Cell(torch, rtx, python))
            if result is None:
                row.append("")
            elif result.fine:
                row.append(f"[green]{result.passed} passed[/]")
            else:
                row.append(f"[red]{result.failed} failed[/]" if not result.problem else "[red]did not run[/]")
        table.add_row(f"torch {torch}", *row)
    return table


if __name__ == "__main__":
    main()
