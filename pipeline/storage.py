"""Files that are whole or absent: atomic writes, fixed Parquet settings, the output directory and its lock.

Commit protocol: write `X.tmp-...`, flush, fsync, rename, fsync the directory. Outputs first, the record
that says they are done last.

    OUT/openwit.json   marks the directory as ours, with the layout's version
    OUT/lock           held by the live run (flock)
    OUT/config.yaml    the resolved config of the last run
    OUT/runs.jsonl     one line a run: when, what, how long
    OUT/work/STEP/     files of one step, done/PARTITION.json, manifest.json
    OUT/versions/ID/   published shards; OUT/shards is a link to the newest whole version
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from pipeline.errors import LockedError, OutputError

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = [
    "LAYOUT_VERSION",
    "append_line",
    "check_output",
    "commit",
    "is_output",
    "open_output",
    "parquet_writer",
    "read_json",
    "read_sealed",
    "save_vector",
    "sha256_of",
    "sweep",
    "temporary_name",
    "unwritable",
    "write_bytes",
    "write_json",
    "write_parquet",
    "write_sealed",
]

LAYOUT_VERSION = 1
_MARK = "openwit.json"
_ROW_GROUP_ROWS = 65_536
_TEXTS = ("url", "page_url", "alt_text", "caption")
"""Columns of free text, which stand in no order."""


def temporary_name(path: Path) -> Path:
    """A name beside `path` for an unfinished file; `sweep` knows it."""
    return path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex[:12]}")


def commit(temporary: Path, final: Path) -> None:
    """Make `temporary` durable and give it its `final` name in one step."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    directory = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically. Raises OutputError when the disk is full or not writable."""
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        commit(temporary, path)
    except OSError as error:
        if os.path.lexists(temporary):
            temporary.unlink()
        raise unwritable(path, error) from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys sorted, one trailing newline."""
    write_bytes(path, (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The parsed file, or None where it is absent or damaged (an unfinished file counts as absent)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """`write_json` of an object with a hash over itself, by which `read_sealed` tells a damaged one."""
    write_json(path, {**value, "check": _seal(value)})


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The object without its hash; None where it is absent or damaged. Files of earlier versions have no hash."""
    value = read_json(path)
    if not isinstance(value, dict):
        return None
    stated = value.pop("check", None)
    return value if stated is None or stated == _seal(value) else None


def _seal(value: Mapping[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def append_line(path: Path, line: str) -> None:
    """Append one line to a log."""
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer with the settings of every Parquet file here: same rows, same bytes.

    zstd's lowest level: against level 3, rows of MATCHED take 1.4 instead of 2.3 microseconds and a tenth more
    room. No dictionary is tried where values do not repeat (identities, hashes, probabilities, lists, texts): one is
    given up only when a megabyte of it is full. No least and greatest value is kept of texts and lists, which no
    reader could skip by. Both together save another 0.15 microseconds and no room. Pages have checksums, so that who
    reads a part of a file can check that part (`checked.py`).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    unordered = {f.name for f in schema if f.name in _TEXTS or pa.types.is_list(f.type)}
    unlike = {f.name for f in schema if pa.types.is_fixed_size_binary(f.type) or pa.types.is_floating(f.type)}
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=[name for name in schema.names if name not in unordered | unlike],
        write_statistics=[name for name in schema.names if name not in unordered],
        store_schema=True,
        write_page_checksum=True,
    )


def write_parquet(path: Path, data: pa.Table | Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
    """Write rows to `path` as given (no rename; callers hold a temporary name). Returns the row count."""
    import pyarrow as pa

    rows = 0
    with parquet_writer(path, schema) as writer:
        if isinstance(data, pa.Table):
            writer.write_table(data.select(schema.names).cast(schema), row_group_size=_ROW_GROUP_ROWS)
            return int(data.num_rows)
        for batch in data:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def save_vector(path: Path, vector: npt.NDArray[Any]) -> None:
    """Write a .npy under exactly this name.

    Not by `np.save`: where the disk fills up in mid-array, that raises an OSError without its number.
    """
    import numpy as np

    plain = np.ascontiguousarray(vector).reshape(vector.shape)
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(plain)
        np.lib.format.write_array_header_1_0(file, header)
        if plain.size:
            file.write(plain.reshape(-1).view(np.uint8).data)


def sha256_of(path: Path) -> str:
    """64 hex digits over the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(directory: Path) -> None:
    """Remove unfinished files that a killed run left in `directory` (not below it)."""
    if directory.is_dir():
        for path in directory.iterdir():
            if ".tmp-" in path.name:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> OutputError:
    """The OutputError for an operating-system error while writing `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"{path}: no space left on the disk; free some and run the same command again, it goes on from here"
        )
    return OutputError(f"{path}: cannot write ({error.strerror}); choose another --output")


@contextmanager
def open_output(path: Path) -> Iterator[Path]:
    """Take the output directory for one run: create or recognise it, lock it, sweep it.

    Raises OutputError where the path is a file, not writable, holds files that are not ours or was
    written by a newer version, and LockedError while another live run holds it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    check_output(path, must_exist=False)
    try:
        lock = (path / "lock").open("a+")
    except OSError as error:
        raise unwritable(path, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            owner = lock.read().strip() or "another process"
            raise LockedError(
                f"{path}: a live run holds this directory ({owner}); wait for it or choose another --output"
            ) from error
        lock.seek(0)
        lock.truncate()
        lock.write(f"process {os.getpid()}")
        lock.flush()
        if read_json(path / _MARK) is None:
            write_json(path / _MARK, {"layout_version": LAYOUT_VERSION, "made_by": "openwit"})
        sweep(path)
        yield path


def is_output(path: Path) -> bool:
    """Whether a run has taken this directory before."""
    return (path / _MARK).exists()


def check_output(path: Path, *, must_exist: bool = True) -> None:
    """Raise OutputError unless `path` is a directory of ours (or, if allowed, an empty one)."""
    if not path.is_dir():
        if must_exist:
            raise OutputError(f"{path}: no such directory; run `python -m pipeline run` to make it")
        return
    mark = read_json(path / _MARK)
    if mark is None:
        left = [p.name for p in path.iterdir() if p.name != "lock" and ".tmp-" not in p.name]
        if left or must_exist:
            what = f"holds files that are not ours ({left[0]})" if left else "is empty"
            raise OutputError(f"{path}: {what}; choose another --output, or an empty directory")
    elif not isinstance(mark, dict) or not isinstance(mark.get("layout_version"), int):
        raise OutputError(f"{path}/{_MARK}: damaged; choose another --output")
    elif mark["layout_version"] > LAYOUT_VERSION:
        raise OutputError(
            f"{path}: written by a newer openwit (layout {mark['layout_version']}, this one knows "
            f"{LAYOUT_VERSION}); update openwit or choose another --output"
        )
