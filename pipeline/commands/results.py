"""The result of a query as a table, CSV, JSON or Parquet, on the terminal or in a file."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, TextIO, get_args

from configs.load import ConfigError
from pipeline.terminal.printable import printable, printable_json, say

if TYPE_CHECKING:
    import duckdb

__all__ = ["Shape", "shape_of", "show"]

Shape = Literal["table", "csv", "json", "parquet"]
_TABLE_ROWS = 1_000


def shape_of(name: str | None, to: str | None) -> Shape:
    """The output format: `name`, else what the file's name tells, else a table. Raises ConfigError."""
    if name is None:
        ending = PurePath(to or "").suffix.removeprefix(".")
        name = ending if ending in ("csv", "json", "parquet") else "table"
    for shape in get_args(Shape):
        if name == shape:
            if shape == "parquet" and to is None:
                raise ConfigError("--format parquet needs --to FILE")
            found: Shape = shape
            return found
    raise ConfigError(f"--format {name!r} is not one of {', '.join(get_args(Shape))}")


def show(relation: duckdb.DuckDBPyRelation, shape: Shape, path: Path | None) -> None:
    """Print a query's rows, or write them to the file `path`.

    Identities and other bytes are shown in hex, except in Parquet. A table ends after 1,000 rows and says so; how wide
    it is, `terminal/table.py` says.
    """
    if path is None:
        _write(relation, shape, sys.stdout)
    elif shape == "parquet":
        relation.write_parquet(str(path), compression="zstd")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            _write(relation, shape, file)


def _write(relation: duckdb.DuckDBPyRelation, shape: Shape, file: TextIO) -> None:
    rows = ([_plain(value) for value in row] for row in relation.iter_rows())
    if shape == "csv":
        shown = _shown if file.isatty() else _cell  # another program gets the text as it is
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([shown(name) for name in relation.columns])
        writer.writerows([shown(value) for value in row] for row in rows)
    elif shape == "json":
        file.write("[")
        for number, row in enumerate(rows):
            text = json.dumps(dict(zip(relation.columns, row, strict=True)), ensure_ascii=False)
            file.write(f"{',' if number else ''}\n {printable_json(text)}")
        file.write("\n]\n")
    else:
        _write_table(relation.columns, rows, file)


def _write_table(columns: list[str], rows: Iterable[list[Any]], file: TextIO) -> None:
    from pipeline.terminal.table import terminal_width, write_table

    kept: list[list[str]] = []
    more = 0
    for row in rows:
        if len(kept) < _TABLE_ROWS:
            kept.append(["" if value is None else str(value) for value in row])
        else:
            more += 1
    write_table(columns, kept, file, terminal_width(file))
    if more:
        say(f"and {more:,} more rows; --format csv, json or parquet gives all of them", to=file)


def _plain(value: Any) -> Any:
    """What JSON can hold: bytes in hex, no NaN, other kinds as their text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value)


def _cell(value: Any) -> Any:
    """One cell of a table or CSV: lists and structures as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value


def _shown(value: Any) -> Any:
    """The same for people's eyes; escaped here already, since the width of a column depends on it."""
    cell = _cell(value)
    return printable(cell) if isinstance(cell, str) else cell
