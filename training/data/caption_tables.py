"""More captions of samples than their own: Parquet with `uid` and `captions`, a file or a directory of files.

uid        16 bytes, or 32 hex digits
captions   list<string>: what a captioner said of the picture, in order
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import PipelineError, one_line
from pipeline.records.identity import first_64_bits
from pipeline.storage.checked import read_schema, read_table
from pipeline.storage.location import Location
from pipeline.storage.place import Place, files_in, place_of
from training.data.shards import reading
from training.data.uid_lookup import UidLookup
from training.errors import DataError

__all__ = ["CaptionTable"]

_MAKE_ONE = "a table of captions has a column uid (16 bytes, or 32 hex digits) and a column captions (list of strings)"
_KEPT_FILES = 4
"""Whose captions are in memory."""


class CaptionTable:
    """Looks captions up by uid."""

    def __init__(self, path: str | Place) -> None:
        """Raises DataError for what is no table of captions."""
        self._path = str(path)
        with reading(place_of(path)):
            place = place_of(path)
            self._files = files_in(place, "*.parquet") if place.is_dir() else [place]
            if not self._files or not all(file.is_file() for file in self._files):
                raise DataError(f"{path}: no Parquet file there; {_MAKE_ONE}")
        for file in self._files:
            _check_columns(file)
        self._lookup = UidLookup([file.stem for file in self._files], self._uids)
        self._captions = lru_cache(_KEPT_FILES)(self._read_captions)

    def of(self, stem: str, uids: npt.NDArray[np.uint64]) -> list[list[str]]:
        """The captions of samples of the shard `stem`, by the first 64 bits of their uids; none is empty, nor twice in
        a sample. Raises DataError."""
        found = self._lookup.find(stem, uids)
        told: list[list[str]] = [[] for _ in uids]
        for number in np.unique(found.file[found.file >= 0]):
            which = np.flatnonzero(found.file == number)
            lists = self._captions(int(number)).take(pa.array(found.row[which])).to_pylist()
            for place, captions in zip(which, lists, strict=True):
                stripped = [caption.strip() for caption in captions or () if caption is not None]
                told[place] = list(dict.fromkeys(caption for caption in stripped if caption))
        return told

    def _uids(self, number: int) -> npt.NDArray[np.uint64]:
        column = self._read(number, "uid").combine_chunks()
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = pa.array([_bytes_of(text, self._files[number]) for text in column.to_pylist()], pa.binary())
        column = column.cast(pa.binary())
        lengths = pc.binary_length(column)
        if column.null_count or (len(column) and pc.min_max(lengths).as_py() != {"min": 16, "max": 16}):
            raise DataError(f"{self._files[number]}: a uid is not of 16 bytes; {_MAKE_ONE}")
        return first_64_bits(b"".join(column.to_pylist()))

    def _read_captions(self, number: int) -> pa.Array:
        return self._read(number, "captions").combine_chunks()

    def _read(self, number: int, column: str) -> Any:
        file = self._files[number]
        with reading(file):
            return read_table(Location(str(file)), [column])[column]


def _check_columns(file: Place) -> None:
    try:
        schema = read_schema(Location(str(file)))
    except (OSError, PipelineError) as error:
        raise DataError(f"{file}: cannot be read as Parquet ({one_line(error)}); {_MAKE_ONE}") from error
    names = schema.names
    if lacking := [name for name in ("uid", "captions") if name not in names]:
        raise DataError(f"{file}: no column {lacking[0]} among {', '.join(names) or 'none'}; {_MAKE_ONE}")
    kind = schema.field("captions").type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or not (pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)):
        raise DataError(f"{file}: column captions is {kind}; {_MAKE_ONE}")


def _bytes_of(text: str | None, file: Place) -> bytes:
    try:
        return bytes.fromhex(text or "")
    except ValueError as error:
        raise DataError(f"{file}: uid {text!r} is no hex digits; {_MAKE_ONE}") from error
