"""Rows as a table that fits the terminal without losing a letter, or as wide as they are where there is none.

    fits as it is                 one line a row
    does not                      headers break at _, long values go on in the next line
    not even so: many columns     a row below the other, a line a value
    a file, another program       as wide as it takes, one line a row

A terminal's width is that of `shutil.get_terminal_size`: COLUMNS, else its real size.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from pipeline.terminal.console import PrintableConsole
from pipeline.terminal.printable import printable

__all__ = ["terminal_width", "write_table"]

_GAP = 3
"""Columns of a terminal between two of the table's."""
_LEAST_VALUE = 16
"""A column that is narrower cannot be read: so many, or the whole value."""


def terminal_width(file: TextIO) -> int | None:
    """How wide the terminal behind `file` is; None where there is none."""
    return shutil.get_terminal_size().columns if file is sys.stdout and file.isatty() else None


def write_table(columns: Sequence[str], rows: Sequence[Sequence[str]], file: TextIO, width: int | None) -> None:
    """Print rows of text; `width` is the terminal's, or None for as much as it takes."""
    names = [printable(name, one_line=True) for name in columns]
    cells = [[printable(cell) for cell in row] for row in rows]
    wide = [max((_wide(row[i]) for row in cells), default=0) for i in range(len(names))]
    fits = width is None or _total([max(_wide(name), most) for name, most in zip(names, wide, strict=True)]) <= width
    if not fits:
        names = [_broken(name, most) for name, most in zip(names, wide, strict=True)]
    least = [max(_wide(name), min(most, _LEAST_VALUE)) for name, most in zip(names, wide, strict=True)]
    if width is not None and _total(least) > width and rows:
        _write_one_by_one(columns, cells, file, width)
        return
    table = Table(box=box.SIMPLE_HEAD)
    for name, narrow in zip(names, least, strict=True):
        table.add_column(Text(name), min_width=narrow, overflow="fold", no_wrap=fits)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    needed = _total([max(_wide(name), most) for name, most in zip(names, wide, strict=True)])
    PrintableConsole(file=file, width=needed if width is None else width).print(table)


def _write_one_by_one(columns: Sequence[str], rows: Sequence[Sequence[str]], file: TextIO, width: int) -> None:
    """A line a value, the rest of a long one under its beginning."""
    names = [printable(name, one_line=True) for name in columns]
    room = max(map(_wide, names))
    console = PrintableConsole(file=file, width=width)
    for number, row in enumerate(rows, 1):
        console.print(f"\n row {number} ".ljust(min(width, 60), "─"), highlight=False)
        grid = Table.grid(padding=(0, 1))
        grid.add_column(min_width=min(room, width // 2), overflow="fold")
        grid.add_column(overflow="fold")
        for name, cell in zip(names, row, strict=True):
            grid.add_row(Text(f" {name}"), Text(cell))
        console.print(grid)


def _wide(text: str) -> int:
    return max((cell_len(line) for line in text.split("\n")), default=0)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) + 1)


def _broken(name: str, room: int) -> str:
    """The name in lines that are no wider than `room`, as far as its underscores allow."""
    lines = [""]
    for part in name.replace("_", "_\n").split("\n"):
        if lines[-1] and _wide(lines[-1] + part) > room:
            lines.append(part)
        else:
            lines[-1] += part
    return "\n".join(lines)
