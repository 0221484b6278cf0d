"""Exact counts of strings in bounded memory: count, spill, merge.

    add, add, ... --(too many distinct)--> spill: one Arrow file, a record batch per bucket, sorted
    spills --bucket by bucket--> the task's file, same form --bucket by bucket, over all tasks--> totals

A key's bucket is a hash of its text, so that a bucket of every file together holds all that is known of
its keys, and one bucket is all that is ever in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from pipeline.storage.place import Place

__all__ = ["COUNTS", "SpillingCounter", "bucket_of", "read_bucket", "sum_counts", "write_buckets"]

COUNTS = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("count", pa.int64(), nullable=False)])
"""One distinct string and how often it occurred."""
_PENDING_ROWS = 4_000_000  # rows of one bucket that wait to be summed


class SpillingCounter:
    """Counts strings; holds at most about `max_entries` distinct ones in memory (150 bytes each)."""

    def __init__(self, scratch: Path, *, num_buckets: int, max_entries: int) -> None:
        self._scratch = scratch
        self._num_buckets = num_buckets
        self._max_entries = max_entries
        self._counts: Counter[str] = Counter()
        self._spills: list[Path] = []

    def add(self, keys: Iterable[str]) -> None:
        """Count each of `keys` once more."""
        self._counts.update(keys)
        if len(self._counts) >= self._max_entries:
            self._spill()

    def add_counts(self, key: str, count: int) -> None:
        """Count `key` `count` times more."""
        self._counts[key] += count
        if len(self._counts) >= self._max_entries:
            self._spill()

    def write(self, path: Path) -> int:
        """Write all counts, bucket by bucket, and remove the spills; returns the number of distinct keys."""
        if not self._spills:
            return write_buckets(path, self._in_memory())
        self._spill()
        try:
            return write_buckets(
                path, (sum_counts(read_bucket(spill, b) for spill in self._spills) for b in range(self._num_buckets))
            )
        finally:
            self.close()

    def close(self) -> None:
        """Remove the spills."""
        for spill in self._spills:
            spill.unlink(missing_ok=True)
        self._spills.clear()

    def _spill(self) -> None:
        spill = self._scratch.with_name(f"{self._scratch.name}.tmp-spill-{len(self._spills)}")
        self._spills.append(spill)
        write_buckets(spill, self._in_memory())
        self._counts.clear()

    def _in_memory(self) -> Iterator[pa.Table]:
        keys = sorted(self._counts)
        counts = np.fromiter(map(self._counts.__getitem__, keys), np.int64, len(keys))
        buckets = bucket_of(keys, self._num_buckets)
        order = np.argsort(buckets, kind="stable")
        table = pa.table([pa.array(keys, pa.string()), pa.array(counts)], schema=COUNTS).take(pa.array(order))
        edges = np.searchsorted(buckets[order], np.arange(self._num_buckets + 1))
        for b in range(self._num_buckets):
            yield table.slice(int(edges[b]), int(edges[b + 1] - edges[b]))


def bucket_of(keys: Sequence[str], num_buckets: int) -> npt.NDArray[np.int64]:
    """int64[N]: the bucket of every key, a hash of its text."""
    if num_buckets == 1:
        return np.zeros(len(keys), np.int64)
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(key.encode()) % num_buckets for key in keys), np.int64, len(keys))


def write_buckets(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write one record batch per table (schema COUNTS); returns the number of rows."""
    rows = 0
    options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, COUNTS, options=options) as writer:
        for table in tables:
            columns = [pa.concat_arrays(column.chunks) if column.num_chunks else [] for column in table.columns]
            writer.write_batch(
                pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, COUNTS, strict=True)], schema=COUNTS)
            )
            rows += table.num_rows
    return rows


def read_bucket(path: Place, bucket: int) -> pa.Table:
    """One bucket of a file that `write_buckets` wrote."""
    with pa.memory_map(str(path)) if isinstance(path, Path) else pa.PythonFile(path.open(), mode="r") as source:
        return pa.Table.from_batches([pa.ipc.open_file(source).get_batch(bucket)], schema=COUNTS)


def sum_counts(tables: Iterable[pa.Table]) -> pa.Table:
    """The sum per key, sorted by key (by code point). Holds a few million rows beyond the distinct keys."""
    total = COUNTS.empty_table()
    pending: list[pa.Table] = []
    pending_rows = 0
    for table in tables:
        pending.append(table)
        pending_rows += table.num_rows
        if pending_rows > _PENDING_ROWS:
            total = _grouped([total, *pending])
            pending, pending_rows = [], 0
    return _grouped([total, *pending]).sort_by("key")


def _grouped(tables: Sequence[pa.Table]) -> pa.Table:
    joined = pa.concat_tables(tables)
    if not joined.num_rows:
        return joined
    sums = joined.group_by("key", use_threads=False).aggregate([("count", "sum")])
    return pa.table([sums.column("key"), sums.column("count_sum")], schema=COUNTS)
