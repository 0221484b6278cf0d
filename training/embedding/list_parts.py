"""Parts of a list: rows that name a picture by its path, or have a text, or both.

    pets.csv, pets.tsv, pets.parquet, pets.jsonl    columns of paths and texts, and perhaps uid
    words.txt                                       a text a line

Paths are relative to the list's directory, absolute, or URLs of a bucket.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from pipeline.errors import one_line
from pipeline.storage.bucket import BucketPath, is_bucket_url
from pipeline.storage.place import Place, place_of
from training.embedding.parts import PART_ROWS, SourcePart, stamp_of, uid_of
from training.errors import DataError

__all__ = ["LIST_SUFFIXES", "list_parts"]

LIST_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".txt")

_IMAGE_NAMES = ("image", "path", "file", "filepath", "filename")
_TEXT_NAMES = ("caption", "text", "title")
_UID_NAMES = ("uid",)
_HEX = re.compile(r"[0-9a-fA-F]{32}")
_REQUESTS = 16
"""Pictures in buckets that are asked for side by side."""


@dataclass(frozen=True)
class _Row:
    """One row of a list."""

    number: int
    """From 1; of lines of text the line."""
    path: str | None
    text: str | None
    uid: object

    def identity(self) -> bytes:
        if isinstance(self.uid, bytes) and len(self.uid) == 16:
            return self.uid
        if isinstance(self.uid, str) and _HEX.fullmatch(self.uid):
            return bytes.fromhex(self.uid)
        return uid_of(self.path or "", self.text or "") if self.uid is None else uid_of(str(self.uid))

    @property
    def name(self) -> str:
        if self.uid is not None and not isinstance(self.uid, bytes) and not _HEX.fullmatch(str(self.uid)):
            return str(self.uid)
        return self.path or f"row {self.number}"


def list_parts(
    path: Place, *, image_column: str | None = None, text_column: str | None = None, uid_column: str | None = None
) -> list[SourcePart]:
    """The parts of a list; the columns are found by their names where they are not given (see EmbedConfig).

    Raises DataError where it cannot be read, has none of the columns or no row, or where no picture is there.
    """
    try:
        table = _table(path)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list ({one_line(error)})") from error
    images = _column(table, path, image_column, "image_column", _IMAGE_NAMES)
    texts = _column(table, path, text_column, "text_column", _TEXT_NAMES)
    uids = _column(table, path, uid_column, "uid_column", _UID_NAMES)
    if images is None and texts is None:
        raise DataError(
            f"{path}: no column of pictures ({', '.join(_IMAGE_NAMES)}) or texts ({', '.join(_TEXT_NAMES)}) among "
            f"{', '.join(table.column_names)}; name them by --image_column and --text_column"
        )
    nothing: list[Any] = [None] * len(table)
    rows = [
        _Row(number, _text(image), _text(text), uid)
        for number, (image, text, uid) in enumerate(
            zip(images or nothing, texts or nothing, uids or nothing, strict=True), start=1
        )
    ]
    if not any(row.path or row.text for row in rows):
        raise DataError(f"{path}: no row with a picture or a text; nothing to embed")
    stamps = _stamps(path.parent, path, rows)
    return [
        _ListPart.of(f"{number:05d}", path.parent, rows[first : first + PART_ROWS], stamps[first : first + PART_ROWS])
        for number, first in enumerate(range(0, len(rows), PART_ROWS))
    ]


def _table(path: Place) -> pa.Table:
    import pyarrow.csv as pc_csv
    import pyarrow.json as pc_json
    import pyarrow.parquet as pq

    data = path.read_bytes()
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return pq.read_table(pa.BufferReader(data))
    if suffix == ".jsonl":
        return pc_json.read_json(pa.BufferReader(data))
    if suffix == ".txt":
        return pa.table({"text": data.decode("utf-8-sig").splitlines()})
    first_line = data.decode("utf-8-sig").partition("\n")[0].rstrip("\r")
    delimiter = "\t" if suffix == ".tsv" else ","
    names = [name.strip('"') for name in first_line.split(delimiter)]
    return pc_csv.read_csv(
        pa.BufferReader(data),
        parse_options=pc_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pc_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True),
    )


def _column(table: pa.Table, path: Place, given: str | None, option: str, names: Sequence[str]) -> list[Any] | None:
    if given is not None and given not in table.column_names:
        raise DataError(f"{path}: no column {given!r} among {', '.join(table.column_names)}; set --{option}")
    name = given or next((name for name in names if name in table.column_names), None)
    return None if name is None else table[name].to_pylist()


def _text(value: Any) -> str | None:
    return None if value is None else str(value).strip() or None


def _place(beside: Place, path: str) -> Place:
    return place_of(path) if is_bucket_url(path) else beside / path


def _stamps(beside: Place, of: Place, rows: Sequence[_Row]) -> list[str | None]:
    """The stamp of each row's picture, None where there is none. Raises DataError where no picture is there at all."""
    named = [row for row in rows if row.path is not None]
    for row in named:
        if "://" in str(row.path) and not is_bucket_url(str(row.path)):
            raise DataError(
                f"{of}: row {row.number} names {row.path}, and nothing is downloaded here; make a data set of the "
                "links first (`openwit shards`), or give paths"
            )
    in_bucket = isinstance(beside, BucketPath) or any(is_bucket_url(str(row.path)) for row in named)
    with ThreadPoolExecutor(_REQUESTS if in_bucket else 1) as pool:
        stamps = list(pool.map(lambda row: _stamp(beside, row.path), rows))
    if named and not any(stamps):
        raise DataError(
            f"{of}: none of its {len(named):,} pictures is there, as {_place(beside, str(named[0].path))}; paths are "
            "relative to the list's directory"
        )
    return stamps


def _stamp(beside: Place, path: str | None) -> str | None:
    try:
        return None if path is None else stamp_of(_place(beside, path))
    except (FileNotFoundError, NotADirectoryError):
        return None


@dataclass(frozen=True, kw_only=True)
class _ListPart:
    """Rows of a list that follow each other."""

    name: str
    content: str
    beside: Place
    list_rows: tuple[_Row, ...]

    @classmethod
    def of(cls, name: str, beside: Place, rows: Sequence[_Row], stamps: Sequence[str | None]) -> _ListPart:
        """The part of these rows."""
        digest = xxhash.xxh3_128()
        for row, stamp in zip(rows, stamps, strict=True):
            told = repr((row.path, row.text, stamp, row.name)).encode("utf-8", "surrogatepass")
            digest.update(row.identity() + told)
        return cls(name=name, content=digest.hexdigest(), beside=beside, list_rows=tuple(rows))

    def rows(self) -> _ListRows:
        return _ListRows(self)


class _ListRows:
    """What a list says of some of its rows."""

    def __init__(self, part: _ListPart) -> None:
        self._part = part
        self.uids = [row.identity() for row in part.list_rows]
        self.names = [row.name.encode("utf-8", "replace").decode() for row in part.list_rows]
        self.texts = [row.text for row in part.list_rows]
        self.has_picture: npt.NDArray[np.bool_] = np.array([row.path is not None for row in part.list_rows], np.bool_)

    def pictures(self, rows: Sequence[int]) -> list[bytes | None]:
        """See `Rows`."""
        return [self._picture(self._part.list_rows[row].path) for row in rows]

    def _picture(self, path: str | None) -> bytes | None:
        if path is None:
            return None
        place = _place(self._part.beside, path)
        try:
            if isinstance(place, Path) and not place.is_file():
                return None
            return place.read_bytes()
        except FileNotFoundError:
            return None
