"""A list of pictures with labels, captions or both: CSV, TSV, JSON lines or Parquet.

    SET.csv     image,label,caption         paths are relative to the list; rows of one picture add to its captions
    SET.parquet the same, or pictures as bytes (also `datasets`' struct of bytes and path), read a row group at a time

Columns go by their names (columns.py), class names and templates lie beside the list (prompts.py). Beside a list called
test, val or validation a list called train is what a linear probe learns from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.storage.place import Place, place_of
from training.data.lists import open_parquet, text_rows
from training.errors import EvaluationError
from training.evaluation.sets.columns import Columns, bytes_of, captions_of, find_columns, number_labels
from training.evaluation.sets.folders import TEST_NAMES, cut
from training.evaluation.sets.form import EvaluationSet, Example, Part, reading
from training.evaluation.sets.prompts import templates_for

__all__ = ["SUFFIXES", "open_list", "picture_of"]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A list without the bytes of its pictures."""

    place: Place
    columns: Columns
    paths: list[str] | None
    """Of the pictures; None where the table holds their bytes."""
    labels: list[Any]
    captions: list[tuple[str, ...]]
    group_sizes: tuple[int, ...] = ()
    """Rows of each row group."""


@dataclass(frozen=True, kw_only=True)
class _GroupPart:
    """Pictures as bytes in a row group of a Parquet file."""

    place: Place
    group: int
    column: str
    rows: Sequence[tuple[int | None, tuple[str, ...]]]

    def examples(self) -> Iterator[Example]:
        """See Part."""
        with reading(self.place), open_parquet(self.place) as file:
            column = file.read_row_group(self.group, columns=[self.column]).column(0)
            for number, (cell, (label, captions)) in enumerate(zip(column, self.rows, strict=True)):
                name = f"{self.place}: row group {self.group}, row {number}"
                image = picture_of(cell.as_py(), self.place.parent, name)
                yield Example(name=name, image=image, label=label, captions=captions)


def open_list(place: Place) -> EvaluationSet:
    """The set in the list at `place`. Raises EvaluationError."""
    tables = [_read(place)]
    beside = place.with_name(f"train{place.suffix}")
    with reading(place):
        if place.stem in TEST_NAMES and beside.is_file():
            tables.append(_read(beside))
    raw = [label for table in tables for label in table.labels]
    labels = number_labels(place, place.parent, raw, tables[0].columns.classes)
    parts, first = [], 0
    for table in tables:
        parts.append(_parts(table, labels.numbers[first : first + len(table.labels)]))
        first += len(table.labels)
    return EvaluationSet(
        root=place,
        form="list",
        classes=labels.classes,
        templates=templates_for(place.parent, labels.keys) if labels.classes else (),
        parts=parts[0],
        train=parts[1] if len(parts) > 1 else (),
    )


def picture_of(cell: Any, directory: Place, name: str) -> bytes:
    """The bytes of the picture in a cell, whose path is relative to `directory`. Raises EvaluationError."""
    data, path = bytes_of(cell)
    if data is None and path is None:
        raise EvaluationError(f"{name} has no picture; fill it in, or take the row out")
    if data is not None:
        return data
    with reading(directory / str(path), remedy="bring the picture, or take the row out"):
        return _beside(directory, str(path)).read_bytes()


def _beside(directory: Place, path: str) -> Place:
    return place_of(path) if "://" in path or Path(path).is_absolute() else directory / path


def _parts(table: _Table, numbers: Sequence[int | None]) -> tuple[Part, ...]:
    if table.paths is None:
        rows, parts, first = list(zip(numbers, table.captions, strict=True)), [], 0
        for group, size in enumerate(table.group_sizes):
            part = _GroupPart(
                place=table.place, group=group, column=table.columns.image, rows=rows[first : first + size]
            )
            parts.append(part)
            first += size
        return tuple(parts)
    merged: dict[str, tuple[int | None, tuple[str, ...]]] = {}
    for path, number, captions in zip(table.paths, numbers, table.captions, strict=True):
        before, known = merged.get(path, (None, ()))
        if before is not None and number is not None and before != number:
            raise EvaluationError(f"{table.place}: {path} has two labels; a picture can have one")
        merged[path] = (number if before is None else before, known + captions)
    return cut([(_beside(table.place.parent, path), label, captions) for path, (label, captions) in merged.items()])


def _read(place: Place) -> _Table:
    with reading(place, remedy="give a list, or set --sets"):
        if place.suffix.lower() == ".parquet":
            return _of_parquet(place)
        rows = list(text_rows(place))
    if not rows:
        raise EvaluationError(f"{place}: is empty; give a row a picture, below the names of the columns")
    columns = find_columns(place, list(dict.fromkeys(name for _, row in rows for name in row)))
    paths = []
    for line, row in rows:
        if not isinstance(path := row.get(columns.image), str) or not path:
            raise EvaluationError(
                f"{place}: line {line} names no picture in {columns.image!r}; fill it in, or remove it"
            )
        paths.append(path)
    label, caption = columns.label, columns.caption
    return _Table(
        place=place,
        columns=columns,
        paths=paths,
        labels=[None if label is None else row.get(label) for _, row in rows],
        captions=[() if caption is None else captions_of(row.get(caption)) for _, row in rows],
    )


def _of_parquet(place: Place) -> _Table:
    with open_parquet(place) as file:
        schema = file.schema_arrow
        columns = find_columns(place, schema.names, schema.metadata)
        kind = schema.field(columns.image).type
        has_bytes = pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        table = file.read(columns=[*columns.words, *([] if has_bytes else [columns.image])])
        sizes = tuple(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
    count = table.num_rows
    paths = None if has_bytes else table[columns.image].to_pylist()
    if paths is not None and None in paths:
        raise EvaluationError(f"{place}: row {paths.index(None)} names no picture; fill it in, or remove it")
    return _Table(
        place=place,
        columns=columns,
        paths=paths,
        labels=[None] * count if columns.label is None else table[columns.label].to_pylist(),
        captions=[()] * count
        if columns.caption is None
        else [captions_of(v) for v in table[columns.caption].to_pylist()],
        group_sizes=sizes,
    )
