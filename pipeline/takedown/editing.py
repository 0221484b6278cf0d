"""Changing a file of a set where it is: on a disk in place, in a bucket by way of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from pipeline.storage.bucket import BucketPath
from pipeline.storage.copies import scratch_copy
from pipeline.storage.lease import hold_of
from pipeline.storage.parquet import write_parquet
from pipeline.storage.place import Place
from pipeline.storage.written import written

__all__ = ["edited", "write_rows"]


@contextmanager
def edited(place: Place) -> Iterator[Path]:
    """The file, to be changed in place; of a bucket a copy, which takes the object's place when the block ended well.
    Raises LockedError where somebody else holds the output by then."""
    if isinstance(place, Path):
        yield place
        return
    with scratch_copy(place) as copy:
        yield copy
        _put(place, copy)


def _put(place: BucketPath, copy: Path) -> None:
    hold_of(place)
    place.put(copy)


def write_rows(place: Place, rows: pa.Table) -> None:
    """Replace a Parquet file by one of these rows, as all of ours are written."""
    with written(place) as path:
        write_parquet(path, rows, rows.schema)
