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
from pipeline.storage.lines import read_lines
from pipeline.storage.place import Place, place_of
from training.data.lists import CAPTION_COLUMNS, IMAGE_COLUMNS, first_column, open_parquet, text_rows
from training.embedding.parts import PART_ROWS, SourcePart, stamp_of, uid_of
from training.errors import DataError

__all__ = ["LIST_SUFFIXES", "list_parts"]

LIST_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".txt")

_UID_COLUMNS = ("uid",)
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
        images, texts, uids = _columns(path, image_column, text_column, uid_column)
    except pa.ArrowException as error:
        raise DataError(f"{path}: cannot be read as a list ({one_line(error)})") from error
    rows = [
        _Row(number, _text(image), _text(text), None if uid == "" else uid)
        for number, (image, text, uid) in enumerate(zip(images, texts, uids, strict=True), start=1)
    ]
    if not any(row.path or row.text for row in rows):
        raise DataError(f"{path}: no row with a picture or a text; nothing to embed")
    stamps = _stamps(path.parent, path, rows)
    return [
        _ListPart.of(f"{number:05d}", path.parent, rows[first : first + PART_ROWS], stamps[first : first + PART_ROWS])
        for number, first in enumerate(range(0, len(rows), PART_ROWS))
    ]


def _columns(path: Place, image: str | None, text: str | None, uid: str | None) -> list[list[Any]]:
    """The cells of pictures, texts and uids, a row each; None in what is missing. Raises DataError, InputError."""
    if path.suffix.lower() == ".txt":
        lines = read_lines(path)
        lines = lines[:-1] if lines and not lines[-1] else lines  # behind the last line's end
        nothing: list[Any] = [None] * len(lines)
        return [nothing, list(lines), nothing]
    if path.suffix.lower() == ".parquet":
        with open_parquet(path) as file:
            names = _names(path, file.schema_arrow.names, image, text, uid)
            for name in [name for name in names if name is not None]:
                kind = file.schema_arrow.field(name).type
                if pa.types.is_nested(kind) or (name == names[0] and not _is_text(kind)):
                    raise DataError(
                        f"{path}: column {name} is {kind}: a row has one text, and its picture's path; unnest lists, "
                        "write pictures that are bytes as files, or name another column"
                    )
            table = file.read(columns=[name for name in names if name is not None])
        return [[None] * len(table) if name is None else table[name].to_pylist() for name in names]
    rows = [row for _, row in text_rows(path)]
    names = _names(path, list(dict.fromkeys(name for row in rows for name in row)), image, text, uid)
    for number, row in enumerate(rows, 1):
        nested = [name for name in names[:2] if name is not None and isinstance(row.get(name), list | dict)]
        if nested:
            raise DataError(f"{path}: row {number}: {nested[0]} is no text; a row has one text, and its picture's path")
    return [[None if name is None else row.get(name) for row in rows] for name in names]


def _names(path: Place, names: Sequence[str], image: str | None, text: str | None, uid: str | None) -> list[str | None]:
    """The columns of pictures, texts and uids. Raises DataError where one that is named is not there, or neither of the
    first two is."""
    for given, option in ((image, "image_column"), (text, "text_column"), (uid, "uid_column")):
        if given is not None and given not in names:
            raise DataError(f"{path}: no column {given!r} among {', '.join(names)}; set --{option}")
    found = [
        image or first_column(IMAGE_COLUMNS, names),
        text or first_column(CAPTION_COLUMNS, names),
        uid or first_column(_UID_COLUMNS, names),
    ]
    if found[0] is None and found[1] is None:
        raise DataError(
            f"{path}: no column of pictures ({', '.join(IMAGE_COLUMNS)}) or texts ({', '.join(CAPTION_COLUMNS)}) among "
            f"{', '.join(names)}; name them by --image_column and --text_column"
        )
    return found


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)) or (
        pa.types.is_dictionary(kind) and _is_text(kind.value_type)
    )


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
        self.left_out = 0

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
