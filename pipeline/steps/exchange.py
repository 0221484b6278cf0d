"""exchange: files of matched pairs -> the same rows by hash partition, for the tasks that need all of a partition.

    matched, some files --cut into partitions--> one file: a block of rows per partition, one after the other

A block is an Arrow stream of its own; the index says where each begins, and the hash of its bytes. A reader takes its
blocks of every file and nothing else: no footer that grows with the number of partitions, no small file per pair of
input and partition. Small inputs share a task, so that blocks stay large where a crawl has many files.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from pipeline.checked import Vouched, load_vector, open_file, read_batches, read_range
from pipeline.engine import Done, Task
from pipeline.identity import first_64_bits
from pipeline.schema import MATCHED
from pipeline.steps.step import Step, key_of
from pipeline.storage import save_vector

__all__ = ["VERSION", "ExchangeWriter", "first_of", "groups_of", "partition_of", "plan", "read_blocks"]

VERSION = "exchange-2"
_BATCH_ROWS = 65_536
T = TypeVar("T")


def plan(matched: Sequence[tuple[Done, Path]], *, partitions: int, rows_per_task: int) -> Step:
    """One task per group of files that hold about `rows_per_task` rows together, or per larger file."""
    tasks = []
    for number, group in enumerate(groups_of(matched, [int(done.info["kept"]) for done, _ in matched], rows_per_task)):
        name = f"{number:05d}"
        arguments = {
            "matched": [done.file(directory, "matched") for done, directory in group],
            "partitions": partitions,
            "rows": rows_per_task,
        }
        key = key_of(VERSION, [done for done, _ in group], partitions, rows_per_task)
        outputs = (f"{name}.blocks", f"{name}.index.npy")
        tasks.append(Task(partition=name, work=_work, arguments=arguments, outputs=outputs, key=key))
    return Step(name="exchange", title="exchange by picture", tasks=tasks)


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

    def __init__(self, blocks: Path, index: Path, schema: pa.Schema, *, partitions: int, rows: int, by: str) -> None:
        self._file, self._index = blocks.open("wb"), index
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


def read_blocks(files: Sequence[tuple[Vouched, Vouched]], partition: int) -> Iterator[pa.RecordBatch]:
    """The partition's rows of every (blocks, index) file, one block in memory at a time.

    Raises DamagedFileError, also where a file is gone.
    """
    for blocks, index in files:
        places = load_vector(index)[:, :, partition : partition + 2].tolist()
        with open_file(blocks.path) as file:
            for (begin, end), (digest, _) in places:
                if begin < end:
                    with pa.ipc.open_stream(read_range(file, begin, end - begin, digest)) as stream:
                        yield from stream


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    blocks, index = outputs.values()
    rows = 0
    with ExchangeWriter(
        blocks, index, MATCHED, partitions=arguments["partitions"], rows=arguments["rows"], by="url_id"
    ) as writer:
        for file in arguments["matched"]:
            for batch in read_batches(file, _BATCH_ROWS):
                rows += batch.num_rows
                writer.add(batch.cast(MATCHED))
    return {"rows": rows}
