"""Tables for people, drawn with rich: what reports, rule lists and findings share."""

from __future__ import annotations

import os
from typing import TextIO

from rich.console import Console
from rich.table import Table

# Columns where the output is no terminal: wide enough to keep rows on a line for grep.
_PIPE_WIDTH = 200


def new_console(file: TextIO, width: int | None = None, color: bool | None = None) -> Console:
    """A console that writes to ``file``; ``width`` and ``color`` are those of the terminal unless given."""
    # Reasons and rule ids hold brackets and colons, which are no markup.
    if width is None and "COLUMNS" not in os.environ and not file.isatty():
        width = _PIPE_WIDTH
    return Console(
        file=file,
        width=width,
        no_color=color is False,
        force_terminal=color or None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def new_table(title: str, *columns: str, right: tuple[str, ...] = (), whole: tuple[str, ...] = ()) -> Table:
    """A table; columns in ``whole`` never break, the others fold where the terminal is narrow."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, title_style="bold")
    for column in columns:
        justify = "right" if column in right else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column in whole)  # type: ignore[arg-type]
    return table


def fix_widths(table: Table) -> Table:
    """Keep columns that must not break at the width of their longest cell, however narrow the terminal is."""
    for column in table.columns:
        if column.no_wrap:
            column.min_width = max(len(str(cell)) for cell in [column.header, *column.cells])
    return table


def size_text(count: int) -> str:
    """A number of bytes as people read it."""
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


__all__ = ["fix_widths", "new_console", "new_table", "size_text"]
