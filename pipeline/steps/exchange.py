"""exchange: files of matched pairs -> the same rows by hash partition, for the tasks that need all of a partition.

    matched, some files --cut into partitions--> one file: a block of rows per partition, one after the other

A block is an Arrow stream of its own; the index says where each begins, and the hash of its bytes. A reader takes its
blocks of every file and nothing else: no footer that grows with the number of partitions, no small file per pair of
input and partition. Small inputs share a task, so that blocks stay large where a crawl has many files.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from pipeline.engine import WORKER_MB, Data, Info, Needs, Task, output
from pipeline.records.earlier import as_now
from pipeline.records.identity import first_64_bits
from pipeline.records.schema import MATCHED
from pipeline.steps.judge_links import Matched
from pipeline.steps.step import Run, step
from pipeline.steps.texts_config import TextsConfig
from pipeline.storage.ahead import read_each
from pipeline.storage.checked import load_vector, open_file, read_batches, read_ranges
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import save_vector

__all__ = [
    "Blocks",
    "Exchange",
    "ExchangeWriter",
    "Exchanged",
    "exchange",
    "first_of",
    "groups_of",
    "partition_of",
    "read_blocks",
]

_BATCH_ROWS = 65_536
_HELD_ROW_BYTES = 800
"""Of a row that waits, and its like while partitions are cut: of short texts a million took 554 MB (docs/scale.md)."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Rows by partition."""

    blocks: Location = output("blocks")
    index: Location = output("index.npy")


@dataclass(frozen=True, kw_only=True)
class Exchange(Task[Blocks]):
    """Cut some files of matched pairs into partitions."""

    matched: Files
    partitions: int
    rows_per_flush: int

    version = 2

    @property
    def needs(self) -> Needs:
        return Needs(memory_mb=WORKER_MB + _HELD_ROW_BYTES * self.rows_per_flush // 2**20)

    def work(self, out: Blocks) -> Info:
        rows = 0
        with ExchangeWriter(out, MATCHED, partitions=self.partitions, rows=self.rows_per_flush, by="url_id") as writer:
            for file in self.matched:
                for batch in read_batches(file, _BATCH_ROWS):
                    rows += batch.num_rows
                    writer.add(as_now(batch, MATCHED))
        return {"rows": rows}


@step("exchange", Exchange, title="exchange by picture", per="million rows")
def exchange(run: Run, matched: Data[Matched], config: TextsConfig) -> Iterator[Exchange]:
    """One task per group of files that hold about `config.rows_per_flush` rows together, or per larger file."""
    groups = groups_of(matched.parts, [int(part.info["kept"]) for part in matched.parts], config.rows_per_flush)
    for number, group in enumerate(groups):
        yield Exchange(
            partition=f"{number:05d}",
            matched=Files(part.files.matched for part in group),
            partitions=config.partitions,
            rows_per_flush=config.rows_per_flush,
        )


@dataclass(frozen=True, kw_only=True)
class Exchanged:
    """All that an exchange wrote: what a task goes through that wants one partition of it."""

    blocks: Files
    indices: Files

    @classmethod
    def of(cls, data: Data[Blocks]) -> Exchanged:
        """What the finished step wrote."""
        return cls(blocks=data.files(lambda out: out.blocks), indices=data.files(lambda out: out.index))


def groups_of(inputs: Sequence[T], rows: Sequence[int], most: int) -> list[list[T]]:
    """Neighbours in groups of at most `most` rows, or of one input; `rows` has how many each input holds."""
    groups: list[list[T]] = []
    held = 0
    for each, count in zip(inputs, rows, strict=True):
        if not groups or held + count > most:
            groups.append([])
            held = 0
        groups[-1].append(each)
        held += count
    return groups


def partition_of(ids: pa.Array, partitions: int) -> npt.NDArray[np.int64]:
    """int64[N] in 0..partitions-1 from binary(16)[N] or uint64[N]: equal ranges of the first 32 bits."""
    if not len(ids):
        return np.empty(0, np.int64)
    if pa.types.is_uint64(ids.type):
        first: npt.NDArray[np.uint64] = ids.to_numpy()
    else:
        data = ids.cast(pa.binary(16)).buffers()[1]
        first = first_64_bits(bytes(memoryview(data))[16 * ids.offset : 16 * (ids.offset + len(ids))])
    return (((first >> np.uint64(32)) * np.uint64(partitions)) >> np.uint64(32)).astype(np.int64)


def first_of(partition: int, partitions: int) -> int:
    """The least uint64 that `partition_of` puts into a partition."""
    return -(-(partition << 32) // partitions) << 32


class ExchangeWriter:
    """Writes rows by partition; holds `rows` of them at most before it writes a block to each partition."""

    def __init__(self, out: Blocks, schema: pa.Schema, *, partitions: int, rows: int, by: str) -> None:
        self._file, self._index = out.blocks.local.open("wb"), out.index.local
        self._schema, self._partitions, self._rows, self._by = schema, partitions, rows, by
        self._held: list[pa.RecordBatch] = []
        self._held_rows = 0
        self._flushes: list[npt.NDArray[np.uint64]] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Take a batch of the schema."""
        if batch.num_rows:
            self._held.append(batch)
            self._held_rows += batch.num_rows
        if self._held_rows >= self._rows:
            self._flush()

    def _flush(self) -> None:
        pieces: list[list[pa.RecordBatch]] = [[] for _ in range(self._partitions)]
        for batch in self._held:
            where = partition_of(batch.column(self._by), self._partitions)
            order = np.argsort(where, kind="stable")
            ordered = batch.take(pa.array(order))
            ends = np.searchsorted(where[order], np.arange(self._partitions + 1))
            for partition in np.flatnonzero(np.diff(ends)):
                begin, end = int(ends[partition]), int(ends[partition + 1])
                pieces[partition].append(ordered.slice(begin, end - begin))
        self._held, self._held_rows = [], 0
        offsets, hashes = [self._file.tell()], []
        for rows in pieces:
            block = _block(rows, self._schema) if rows else b""
            self._file.write(block)
            offsets.append(self._file.tell())
            hashes.append(xxhash.xxh3_64_intdigest(block))
        self._flushes.append(np.array([offsets, [*hashes, 0]], np.uint64))

    def __enter__(self) -> ExchangeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._file.close()

    def close(self) -> None:
        """Write what is held, and the index: uint64[flushes, 2, partitions + 1], where each block begins and the next
        one with it, and their xxh3-64 (0 after the last)."""
        if self._held:
            self._flush()
        self._file.close()
        save_vector(self._index, np.array(self._flushes, np.uint64).reshape(-1, 2, self._partitions + 1))


def _block(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_batches(batches, schema)
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        for batch in table.combine_chunks().to_batches(max_chunksize=_BATCH_ROWS):
            writer.write_batch(batch)
    return sink.getvalue()


def read_blocks(exchanged: Exchanged, partition: int) -> Iterator[pa.RecordBatch]:
    """The partition's rows, the blocks of one file in memory at a time, packed. Raises DamagedFileError, also where a
    file is gone."""
    index_of = dict(zip(exchanged.blocks, exchanged.indices, strict=True))

    def blocks_in(blocks: Location) -> list[bytes]:
        places = load_vector(index_of[blocks])[:, :, partition : partition + 2].tolist()
        ranges = [(begin, end - begin, digest) for (begin, end), (digest, _) in places if begin < end]
        with open_file(blocks.path) as file:
            return read_ranges(file, ranges) if ranges else []

    for found in read_each(exchanged.blocks, blocks_in):
        for block in found:
            with pa.ipc.open_stream(block) as stream:
                yield from stream
