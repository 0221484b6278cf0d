"""DuckDB as it is opened here: a place to spill to, in a task one thread and a memory limit, a full disk told as
everybody's."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.storage.bucket import BucketPath
from pipeline.storage.place import Place

if TYPE_CHECKING:
    import duckdb

__all__ = ["full_disk", "open_duckdb", "quote_text", "read_parquet_sql", "spill_beside", "use_buckets"]

_FULL = "No space left on device"
_OUT_OF_ROOM = (_FULL, "failed to offload data block", "max_temp_directory_size")
"""What DuckDB says where its spill does not fit on the disk."""


Streams = Mapping[str, tuple[pa.Schema, Iterator[pa.RecordBatch]]]
"""Name of a table -> its schema and rows, to be read once."""


@contextmanager
def open_duckdb(
    spill: Path | None = None, *, memory_mb: int | None = None, streams: Streams | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory with the tables `streams`; what passes `memory_mb` goes to the directory `spill`, which is
    gone afterwards.

    With `memory_mb` it has one thread, as the task of a worker should; without, the machine's threads and DuckDB's own
    limit. Without `spill` nothing leaves the memory. Raises what a stream raises, of which DuckDB would make an error
    of its own with a traceback for a text, and OSError (ENOSPC) where the disk is too full to spill.
    """
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {
        "temp_directory": "" if spill is None else str(spill),
        # Else a file's ending or a URL's scheme has it fetch an extension from its maker's server.
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    if memory_mb is not None:
        config |= {"threads": 1, "memory_limit": f"{memory_mb}MB"}
    failures: list[Exception] = []
    try:
        with full_disk(spill or Path()), duckdb.connect(config=config) as database:
            for name, (schema, rows) in (streams or {}).items():
                database.register(name, pa.RecordBatchReader.from_batches(schema, _watched(rows, failures)))
            yield database
    except duckdb.Error as error:
        if failures:
            raise failures[0] from error
        raise


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Turn DuckDB's error for a full disk, which has no number, into the OSError (ENOSPC) that it stands for."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        if any(words in str(error) for words in _OUT_OF_ROOM):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def _watched(rows: Iterator[pa.RecordBatch], failures: list[Exception]) -> Iterator[pa.RecordBatch]:
    """The same rows; what ends them is kept in `failures`."""
    try:
        yield from rows
    except Exception as error:
        failures.append(error)
        raise


def spill_beside(path: Path) -> Path:
    """The directory for what a task that writes `path` spills; it is swept like the unfinished file."""
    return path.with_name(f"{path.name}.spill")


def quote_text(text: object) -> str:
    """An SQL string literal."""
    return "'" + str(text).replace("'", "''") + "'"


def use_buckets(database: duckdb.DuckDBPyConnection, files: Iterable[Place]) -> None:
    """Let `database` read those of the files that lie in a bucket, by range, with our client: its own would have to be
    downloaded first."""
    from pipeline.storage.duck_files import ObjectFiles

    for scheme in sorted({file.bucket.partition(":")[0] for file in files if isinstance(file, BucketPath)}):
        if not database.filesystem_is_registered(scheme):
            database.register_filesystem(ObjectFiles(scheme))


def read_parquet_sql(files: Sequence[Place], *, differ: bool = False) -> str:
    """The DuckDB table function over `files`, which must not be empty; where they `differ`, with all of their columns.

    To find those, every file is opened.
    """
    return f"read_parquet([{', '.join(map(quote_text, files))}]{', union_by_name = true' if differ else ''})"
