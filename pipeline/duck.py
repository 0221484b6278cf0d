"""DuckDB for one task: one thread, a memory limit, a place to spill to, and its full disk told as everybody's."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

__all__ = ["open_duckdb", "quote_text", "spill_beside"]

_FULL = "No space left on device"
_OUT_OF_ROOM = (_FULL, "failed to offload data block", "max_temp_directory_size")
"""What DuckDB says where its spill does not fit on the disk."""


@contextmanager
def open_duckdb(spill: Path, *, memory_mb: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory; what passes `memory_mb` goes to the directory `spill`, which is gone afterwards.

    Raises OSError (ENOSPC) where the disk is too full for that.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": 1,
        "memory_limit": f"{memory_mb}MB",
        "temp_directory": str(spill),
    }
    try:
        with duckdb.connect(config=config) as database:
            yield database
    except duckdb.Error as error:
        if any(words in str(error) for words in _OUT_OF_ROOM):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(spill)) from error
        raise


def spill_beside(path: Path) -> Path:
    """The directory for what a task that writes `path` spills; it is swept like the unfinished file."""
    return path.with_name(f"{path.name}.spill")


def quote_text(text: object) -> str:
    """An SQL string literal."""
    return "'" + str(text).replace("'", "''") + "'"
