"""Lists of pictures and texts that users bring, CSV, TSV, JSON lines or Parquet: their rows, and which column is what.

    SET.csv, SET.tsv, SET.jsonl --text_rows--> (line, {column: value})     SET.parquet --open_parquet--> ParquetFile
    names of the columns --first_column(IMAGE_COLUMNS)--> the one of the pictures

Nothing is read otherwise than it was written: a row with more cells than there are names is told, and so is a column
that stands there twice, or a quotation mark that a reader of CSV takes for the end.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError, one_line
from pipeline.storage.lines import decode_text
from pipeline.storage.place import Place

__all__ = ["CAPTION_COLUMNS", "IMAGE_COLUMNS", "first_column", "open_parquet", "text_rows"]

IMAGE_COLUMNS = ("image", "filepath", "file_name", "filename", "path", "file")
"""Names of a column of pictures: their paths, or their bytes."""
CAPTION_COLUMNS = ("caption", "captions", "text", "title")


def first_column(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of `wanted` that is among `names`, whatever their case; None where none is."""
    known = {name.lower(): name for name in reversed(names)}
    return next((known[name] for name in wanted if name in known), None)


def text_rows(place: Place) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of a list in text, from 1 on. CSV has strings alone, an empty cell is "".

    Raises InputError for what is not UTF-8 or not of its form, with the line; OSError.
    """
    text = decode_text(place.read_bytes(), place)
    return _json_rows(place, text) if place.suffix.lower() == ".jsonl" else _csv_rows(place, text)


def open_parquet(place: Place) -> pq.ParquetFile:
    """Raises InputError for what is no Parquet, or has two columns of one name; OSError."""
    try:
        file = pq.ParquetFile(place if isinstance(place, Path) else place.open("rb"))
    except pa.ArrowInvalid as error:
        raise InputError(f"{place}: no Parquet file ({one_line(error, 100)}); write it anew") from error
    _check_names(place, file.schema_arrow.names)
    return file


def _csv_rows(place: Place, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Of TSV too, whose separator also stands in some files called .csv (open_clip's)."""
    head = text.partition("\n")[0]
    separator = "\t" if place.suffix.lower() == ".tsv" or ("\t" in head and "," not in head) else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        names = next(reader, [])
        _check_names(place, names)
        for cells in reader:
            if any(cells[len(names) :]):
                raise InputError(
                    f"{place}: line {reader.line_num} has more cells than there are columns; put cells that hold a "
                    'separator into "quotation marks", and double the marks in them'
                )
            if cells:
                yield reader.line_num, dict(zip(names, cells, strict=False))
    except csv.Error as error:
        raise InputError(f"{place}: line {reader.line_num} is not CSV ({one_line(error)}); write it anew") from error


def _json_rows(place: Place, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{place}: line {number} is not JSON ({one_line(error)}); write it anew") from error
        if not isinstance(row, dict):
            raise InputError(f"{place}: line {number} is no JSON object; write one a picture")
        yield number, {name: _encodable(value) for name, value in row.items()}


def _encodable(value: Any) -> Any:
    """Half a surrogate pair, which JSON can escape and no file can hold, becomes the replacement character."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return [_encodable(each) for each in value] if isinstance(value, list) else value


def _check_names(place: Place, names: Sequence[str]) -> None:
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{place}: two columns are called {twice!r}; rename one")
