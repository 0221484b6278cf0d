"""Parts of a data set of ours, or of tars of other tools.

    00000.parquet with tar_offset --> uid, caption and place of each row; pictures by offset, held against stored_xxh3
    else 00000.tar's headers -------> groups of members with one key; uid of tar name and key; KEY.txt is the text

Rows without a picture, or without a text, are rows all the same.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from configs.load import fingerprint
from pipeline.storage.bucket import BucketPath
from pipeline.storage.checked import open_file, read_ranges, read_schema, read_table
from pipeline.storage.copies import scratch_files
from pipeline.storage.location import Location
from pipeline.storage.place import Place, files_in
from training.data.download import download
from training.data.rows import foreign_uid, groups
from training.data.shards import IMAGE_SUFFIXES, Shard, find_shards, reading
from training.embedding.folder_parts import PICTURE_SUFFIXES
from training.embedding.parts import PART_ROWS, SourcePart, stamp_of
from training.errors import DataError

__all__ = ["is_set", "shard_parts"]

_NEEDED = {"tar_offset", "num_bytes"}
_WANTED = ("key", "uid", "caption", "tar_offset", "num_bytes", "stored_xxh3")
_REQUESTS = 16
"""Shards of a bucket that are looked at side by side."""


def is_set(place: Place) -> bool:
    """Whether `place` holds shards, or is a directory of tars."""
    if (place / "shards").is_dir() or any((place / name).is_file() for name in ("manifest.json", "sizes.json")):
        return True
    return bool(files_in(place, "*.tar"))


def shard_parts(place: Place) -> tuple[Literal["set", "tars"], list[SourcePart]]:
    """(kind, parts) of the shards at `place`, in their order. Raises DataError."""
    shards = find_shards(place)
    with reading(place), ThreadPoolExecutor(_REQUESTS if isinstance(place, BucketPath) else 1) as pool:
        looked_at = list(pool.map(_parts_of, shards))
    parts = [part for found in looked_at for part in found]
    return "set" if all(isinstance(part, _TablePart) for part in parts) else "tars", parts


def _parts_of(shard: Shard) -> list[SourcePart]:
    tar = shard.sha256 or f"{shard.num_bytes} {shard.e_tag or stamp_of(shard.path)}"
    parquet = Location(str(shard.path.with_name(f"{shard.path.stem}.parquet")), shard.parquet_sha256 or "")
    if not parquet.digest and not (parquet.place.is_file() and set(read_schema(parquet).names) >= _NEEDED):
        return [_TarPart(name=shard.path.stem, content=tar, shard=shard)]
    content = f"{tar} {parquet.digest or stamp_of(parquet.place)}"
    if shard.removed:
        content += f" without {fingerprint(sorted(uid.hex() for uid in shard.removed))}"
    rows = shard.samples if shard.samples is not None else len(read_table(parquet, ["tar_offset"]))
    firsts = range(0, rows, PART_ROWS) or range(1)
    return [
        _TablePart(
            name=shard.path.stem if rows <= PART_ROWS else f"{shard.path.stem}-{number:03d}",
            content=f"{content} {first}",
            tar=shard.path,
            parquet=parquet,
            first=first,
            removed=shard.removed,
        )
        for number, first in enumerate(firsts)
    ]


@dataclass(frozen=True, kw_only=True)
class _TablePart:
    """Rows of a Parquet, from `first` on."""

    name: str
    content: str
    tar: Place
    parquet: Location
    first: int
    removed: frozenset[bytes]
    """Uids that are passed over."""

    def rows(self) -> _TableRows:
        names = set(read_schema(self.parquet).names)
        table = read_table(self.parquet, [name for name in _WANTED if name in names])
        return _TableRows(self.tar, table.slice(self.first, PART_ROWS).combine_chunks(), self.removed)


class _TableRows:
    """What a Parquet says of some of its shard's samples."""

    def __init__(self, tar: Place, table: pa.Table, removed: frozenset[bytes]) -> None:
        self._tar = tar
        self.names: list[str] = [str(key) for key in _column(table, "key", range(len(table)))]
        uids = _column(table, "uid", [None] * len(table))
        self.uids = [_own(uid) or _foreign(tar, name) for uid, name in zip(uids, self.names, strict=True)]
        self.texts: list[str | None] = _stripped(_column(table, "caption", [None] * len(table)))
        self._offset, self._size = (pc.fill_null(table[name], -1).to_numpy() for name in ("tar_offset", "num_bytes"))
        self._hash: list[bytes | None] = _column(table, "stored_xxh3", [None] * len(table))
        self.has_picture: npt.NDArray[np.bool_] = (self._offset >= 0) & (self._size > 0)
        if removed:  # they keep their rows, by whose numbers an index knows the others
            self.has_picture &= ~np.array([uid in removed for uid in self.uids], np.bool_)
            self.texts = [None if uid in removed else text for uid, text in zip(self.uids, self.texts, strict=True)]
        self.left_out = 0

    def pictures(self, rows: Sequence[int]) -> list[bytes | None]:
        """See `Rows`."""
        with open_file(self._tar) as tar:
            return list(read_ranges(tar, [(int(self._offset[i]), int(self._size[i]), self._hash[i]) for i in rows]))


@dataclass(frozen=True, kw_only=True)
class _TarPart:
    """A whole tar."""

    name: str
    content: str
    shard: Shard

    def rows(self) -> _TarRows:
        return _TarRows(self.shard)


class _TarRows:
    """What the headers of a tar say; of one in a bucket a copy stays on this machine for as long."""

    def __init__(self, shard: Shard) -> None:
        self._tar = self._here(shard)
        self.names: list[str] = []
        self.uids: list[bytes] = []
        self.texts: list[str | None] = []
        self._places: list[tuple[int, int]] = []
        self.left_out = 0  # such as v0.1.webp, whose extension begins, as WebDataset has it, at its first dot
        with self._tar.open("rb") as file:
            for key, found in groups(self._tar):
                image = next((found[suffix] for suffix in IMAGE_SUFFIXES if suffix in found), (0, 0))
                pictures = sum(f".{suffix.rpartition('.')[2]}" in PICTURE_SUFFIXES for suffix in found)
                self.left_out += pictures - (image != (0, 0))
                text = found.get("txt")
                if image[1] or text is not None:
                    self._places.append(image)
                    self.names.append(key.removeprefix("/"))
                    self.uids.append(_foreign(shard.path, key))
                    told = b"" if text is None else os.pread(file.fileno(), text[1], text[0])
                    self.texts.append(told.decode("utf-8", "replace").strip() or None)
        self.names = [name.encode("utf-8", "replace").decode() for name in self.names]
        self.has_picture = np.array([size > 0 for _, size in self._places], np.bool_)

    def _here(self, shard: Shard) -> Path:
        path = shard.path
        if isinstance(path, Path):
            return path
        with ExitStack() as stack:
            copy = stack.enter_context(scratch_files()) / path.name
            download(path, copy, num_bytes=shard.num_bytes, sha256=shard.sha256, e_tag=shard.e_tag)
            weakref.finalize(self, stack.pop_all().close)
        return copy

    def pictures(self, rows: Sequence[int]) -> list[bytes | None]:
        """See `Rows`."""
        with reading(self._tar), self._tar.open("rb") as file:
            found = [os.pread(file.fileno(), size, offset) for offset, size in (self._places[row] for row in rows)]
        for data, row in zip(found, rows, strict=True):
            if len(data) != self._places[row][1]:
                raise DataError(f"{self._tar}: ends before its last picture does; copy it again")
        return list(found)


def _column(table: pa.Table, name: str, otherwise: Sequence[Any]) -> list[Any]:
    return table[name].to_pylist() if name in table.column_names else list(otherwise)


def _own(uid: object) -> bytes | None:
    """A uid of 16 bytes, or of 32 hex digits, as img2dataset's users have it."""
    if isinstance(uid, str):
        try:
            uid = bytes.fromhex(uid)
        except ValueError:
            return None
    return uid if isinstance(uid, bytes) and len(uid) == 16 else None


def _foreign(tar: Place, key: str) -> bytes:
    """The trainer's 64 bits of this sample, by which it knows it too, and 64 more."""
    first = foreign_uid(tar, key).to_bytes(8, "big")
    return first + foreign_uid(tar, f"{key}\0").to_bytes(8, "big")


def _stripped(texts: Sequence[object]) -> list[str | None]:
    return [str(text).strip() or None if text is not None else None for text in texts]
