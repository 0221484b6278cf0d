"""Where each sample of one shard lies in its tar.

    00000.parquet with tar_offset ------------------------------> ShardRows
    else the tar's headers, read one by one (tar_headers.py) ------^

Rows without a caption or an image are left out and counted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from pipeline.errors import one_line
from pipeline.storage.bucket import BucketPath
from pipeline.storage.copies import scratch_files
from pipeline.storage.place import Place
from training.data.download import changed, download
from training.data.shards import IMAGE_SUFFIXES, Shard
from training.data.tar_headers import members
from training.errors import DataError

__all__ = ["ShardRows", "foreign_uid", "groups", "read_rows", "states_queries"]

_PLACES = ("caption", "tar_offset", "num_bytes")
"""Columns of a Parquet without which the tar itself is read."""
_MAX_QUERIES = 1 << 27
"""Many times the largest list (MetaCLIP 2 has 27 million entries): tables over all queries stay within 1 GB."""


@dataclass(frozen=True, kw_only=True)
class ShardRows:
    """The n samples of one shard."""

    offset: npt.NDArray[np.int64]
    """int64[n]: where each image's bytes start in the tar."""
    num_bytes: npt.NDArray[np.int64]
    """int64[n]: length of each image's bytes."""
    uid: npt.NDArray[np.uint64]
    """uint64[n]: first 64 bits of the uid; for foreign shards a hash of shard name and key."""
    caption_bytes: npt.NDArray[np.int64]
    """int64[n]: length of each caption in UTF-8; none is empty."""
    captions: bytes
    """The captions, end to end."""
    num_without_text: int
    num_without_image: int
    num_removed: int = 0
    """Whose bytes are still there."""
    caption_queries: npt.NDArray[np.int64] | None = None
    """int64[n]: how many queries each caption contains; None where nobody asked, or nothing says it."""
    queries: npt.NDArray[np.int32] | None = None
    """The `query_ids` of all of them, end to end."""
    fields: Mapping[str, npt.NDArray[Any]] = dataclasses.field(default_factory=dict)
    """[n] or [n, K] each, of the columns that were asked for and are there."""


def read_rows(shard: Shard, *, with_queries: bool = False, fields: Sequence[str] = ()) -> ShardRows:
    """The samples of `shard`, `with_queries` and `fields` as far as the Parquet beside it has them. Raises DataError
    where it is damaged, or holds fewer than its list says."""
    rows = _rows_from_parquet(shard, with_queries, fields)
    if rows is None:
        rows = _rows_from_tar(shard.path) if isinstance(shard.path, Path) else _rows_from_copy(shard, shard.path)
    found = len(rows.offset) + rows.num_without_text + rows.num_without_image + rows.num_removed
    if shard.samples is not None and found < shard.samples:
        raise DataError(
            f"{shard.path}: {found} samples, but {shard.samples} are listed; the shard is damaged: copy it again"
        )
    size = shard.num_bytes
    if len(rows.offset) and int((rows.offset + rows.num_bytes).max()) > size:
        raise DataError(f"{shard.path}: truncated, the last image ends beyond its {size} bytes; copy it again")
    return rows


def _rows_from_parquet(shard: Shard, with_queries: bool, fields: Sequence[str]) -> ShardRows | None:
    """The shard's rows from the Parquet beside it; None where it has no offsets."""
    path = _parquet(shard)
    wanted = ["key", "uid", *(["query_ids"] if with_queries else []), *fields]
    with _readable(path):
        table = _table(shard, needed=_PLACES, wanted=wanted)
        if table is None:
            return None
        captions = _stripped(table["caption"])
    offset, num_bytes = (pc.fill_null(table[n], -1).to_numpy().astype(np.int64) for n in ("tar_offset", "num_bytes"))
    caption_bytes = pc.binary_length(captions).to_numpy().astype(np.int64)
    has_image = (offset >= 0) & (num_bytes > 0)
    there = _there(table, shard)
    has_image &= there
    keep = has_image & (caption_bytes > 0)
    caption_queries, queries = _queries(table, keep, path)
    return ShardRows(
        offset=offset[keep],
        num_bytes=num_bytes[keep],
        uid=_uids(table, shard.path)[keep],
        caption_bytes=caption_bytes[keep],
        captions=_joined(captions.filter(pa.array(keep))),
        num_without_text=int((has_image & ~keep).sum()),
        num_without_image=int((~has_image & there).sum()),
        num_removed=int((~there).sum()),
        caption_queries=caption_queries,
        queries=queries,
        fields={name: _field(table[name], keep, name, path) for name in fields if name in table.column_names},
    )


def states_queries(shard: Shard) -> bool:
    """Whether the Parquet beside `shard` states queries, with the places of its pictures. Raises DataError where it is
    damaged."""
    with _readable(_parquet(shard)):
        source = _source(_parquet(shard), shard.parquet_sha256)
        if source is None:
            return False
        with pq.ParquetFile(source) as file:
            return {"query_ids", *_PLACES} <= set(file.schema_arrow.names)


def _there(table: pa.Table, shard: Shard) -> npt.NDArray[np.bool_]:
    """bool[n]: the rows that were not removed."""
    if not shard.removed or "uid" not in table.column_names:
        return np.ones(table.num_rows, np.bool_)
    uids = table["uid"].cast(pa.binary())
    removed: npt.NDArray[np.bool_] = pc.is_in(uids, pa.array(sorted(shard.removed), pa.binary())).to_numpy()
    return ~removed


def _parquet(shard: Shard) -> Place:
    """What lies beside the tar."""
    return shard.path.with_name(f"{shard.path.stem}.parquet")


def _table(shard: Shard, *, needed: Sequence[str], wanted: Sequence[str] = ()) -> pa.Table | None:
    """Columns of the Parquet beside `shard`: those `needed`, and of those `wanted` what is there; None where it lacks
    one that is needed, or is not there itself."""
    source = _source(_parquet(shard), shard.parquet_sha256)
    if source is None:
        return None
    with pq.ParquetFile(source) as file:
        names = file.schema_arrow.names
        if not set(needed) <= set(names):
            return None
        columns = [name for name in dict.fromkeys((*needed, *wanted)) if name in names]
        return file.read(columns=columns, use_threads=False)


@contextmanager
def _readable(path: Place) -> Iterator[None]:
    """Turn what is raised of a damaged Parquet into DataError."""
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the shard's metadata ({one_line(error)}); copy it again") from error


def _field(column: pa.ChunkedArray, keep: npt.NDArray[np.bool_], name: str, path: Place) -> npt.NDArray[Any]:
    """[n] or [n, K]: the column's numbers, in the rows that are kept. Raises DataError for what is none, or missing."""
    kept = column.filter(pa.array(keep)).combine_chunks()
    width = _width(kept)
    numbers = kept if width is None else kept.flatten()
    is_number = pa.types.is_floating(numbers.type) or pa.types.is_integer(numbers.type)
    if not is_number or kept.null_count or numbers.null_count:
        raise DataError(
            f"{path}: column {name} must be a number in each row, or a list of numbers of one length; "
            f"it is {column.type}{' with nulls' if kept.null_count or numbers.null_count else ''}"
        )
    values: npt.NDArray[Any] = numbers.to_numpy(zero_copy_only=False)
    values = values.astype(np.float32 if values.dtype == np.float64 else values.dtype)
    return values if width is None else values.reshape(len(kept), width)


def _width(lists: pa.Array) -> int | None:
    """The length of all lists; None where they differ, or are none."""
    if pa.types.is_fixed_size_list(lists.type):
        return int(lists.type.list_size)
    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
        return None
    lengths = pc.unique(pc.list_value_length(lists)).to_pylist() or [0]  # of a shard without samples
    return lengths[0] if len(lengths) == 1 else None


def _queries(
    table: pa.Table, keep: npt.NDArray[np.bool_], path: Place
) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.int32] | None]:
    """(int64[n], int32[m]): how many queries each row that is kept has, and their ids, end to end."""
    if "query_ids" not in table.column_names:
        return None, None
    try:
        lists = table["query_ids"].cast(pa.list_(pa.int32())).combine_chunks().filter(pa.array(keep))
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
        ids = lists.flatten()
    except pa.ArrowException as error:
        raise DataError(
            f"{path}: its query_ids are no lists of numbers ({one_line(error)}); copy or make the shard again"
        ) from error
    if ids.null_count or (len(ids) and not (pc.min(ids).as_py() >= 0 and pc.max(ids).as_py() < _MAX_QUERIES)):
        raise DataError(f"{path}: its query_ids are no places in a query list; copy or make the shard again")
    return lengths, ids.to_numpy(zero_copy_only=False).astype(np.int32)


def _source(path: Place, sha256: str | None) -> Path | pa.BufferReader | None:
    """What pyarrow reads; None where there is no such file. One of a bucket is read whole: it is small, and held
    against its hash. Raises DataError where it has another one, OSError."""
    if isinstance(path, Path):
        return path if path.is_file() else None
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if sha256 not in (None, hashlib.sha256(data).hexdigest()):
        raise changed(path)
    return pa.BufferReader(data)


def _stripped(column: pa.ChunkedArray) -> pa.Array:
    """Captions as large_binary, without white space at their ends."""
    texts = pc.fill_null(column.cast(pa.large_string()), "").combine_chunks()
    if pc.any(pc.match_substring_regex(texts, r"^[\s\x1c-\x1f\x85\p{Z}]|[\s\x1c-\x1f\x85\p{Z}]$")).as_py():
        texts = pa.array([text.strip() for text in texts.to_pylist()], pa.large_string())
    return texts.cast(pa.large_binary())


def _joined(texts: pa.Array) -> bytes:
    """The values of a large_binary array, end to end."""
    if not len(texts):
        return b""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return bytes(memoryview(data)[int(ends[0]) : int(ends[-1])])


def _uids(table: pa.Table, tar: Place) -> npt.NDArray[np.uint64]:
    if "uid" not in table.column_names:
        keys = table["key"].to_pylist() if "key" in table.column_names else range(table.num_rows)
        return np.array([foreign_uid(tar, str(key)) for key in keys], np.uint64)
    first = pc.binary_slice(table["uid"].cast(pa.binary()), 0, 8).combine_chunks()
    if pc.binary_length(first).to_numpy().min(initial=8) < 8:
        raise DataError(
            f"{tar.with_name(f'{tar.stem}.parquet')}: a uid has less than 8 bytes; copy or make the shard again"
        )
    return np.frombuffer(_joined(first.cast(pa.large_binary())), ">u8").astype(np.uint64)


def _rows_from_copy(shard: Shard, path: BucketPath) -> ShardRows:
    """`_rows_from_tar` of a tar in a bucket, read once."""
    with scratch_files() as directory:
        copy = directory / path.name
        download(path, copy, num_bytes=shard.num_bytes, sha256=shard.sha256, e_tag=shard.e_tag)
        try:
            return _rows_from_tar(copy)
        except DataError as error:
            raise DataError(str(error).replace(str(copy), str(path))) from error


def _rows_from_tar(tar: Path) -> ShardRows:
    """The shard's rows from the tar's own headers, for shards of other tools."""
    places: list[tuple[int, int]] = []
    uids: list[int] = []
    captions: list[bytes] = []
    num_without_text = num_without_image = 0
    with tar.open("rb") as file:
        for key, found in groups(tar):
            image = next((found[s] for s in IMAGE_SUFFIXES if s in found), None)
            text = found.get("txt")
            if image is None or not image[1]:
                num_without_image += 1
                continue
            caption = b"" if text is None else os.pread(file.fileno(), text[1], text[0]).strip()
            if not caption:
                num_without_text += 1
                continue
            places.append(image)
            uids.append(foreign_uid(tar, key))
            captions.append(caption)
    offset, num_bytes = np.array(places, np.int64).reshape(-1, 2).T
    return ShardRows(
        offset=offset,
        num_bytes=num_bytes,
        uid=np.array(uids, np.uint64),
        caption_bytes=np.array([len(caption) for caption in captions], np.int64),
        captions=b"".join(captions),
        num_without_text=num_without_text,
        num_without_image=num_without_image,
    )


def groups(tar: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """(key, {extension: (offset, size)}) for each run of members with one key, as WebDataset groups; none has a name
    twice."""
    current: str | None = None
    group: dict[str, tuple[int, int]] = {}
    for path, offset, size in members(tar):
        folder, _, name = path.rpartition("/")
        stem, _, extension = name.partition(".")
        key = f"{folder}/{stem}"
        extension = extension.lower()
        # A name that comes again is of another sample: none takes the place of one before it.
        if current is not None and (key != current or extension in group):
            yield current, group
            group = {}
        current = key
        group[extension] = (offset, size)
    if current is not None:
        yield current, group


def foreign_uid(tar: Place, key: str) -> int:
    """64 bits for a sample that has no uid of its own."""
    return xxhash.xxh3_64_intdigest(f"{tar.name}\0{key}".encode("utf-8", "surrogatepass"))
