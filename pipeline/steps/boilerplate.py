"""Unique pairs, and the captions that stand on many pictures.

    exchange --pairs--> unique pairs --captions--> boilerplate

Captions meet in an exchange of their own: `pairs` sends, per caption, its digest and the number of its URLs in the
partition, so that a caption's count is a sum over partitions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from pipeline.engine import WORKER_MB, Data, Info, Needs, Task, apart, output
from pipeline.records.ledger import Ledger
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.outcome import reject
from pipeline.records.schema import MATCHED, REJECTIONS
from pipeline.steps.dedup_config import DedupConfig
from pipeline.steps.exchange import Blocks, Exchanged, partition_of, read_blocks
from pipeline.steps.neighbours import Neighbours, in_order, verdicts
from pipeline.steps.step import Run, step
from pipeline.storage.checked import read_row_groups
from pipeline.storage.duck import open_duckdb, spill_beside
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import parquet_writer, write_parquet

__all__ = [
    "Boilerplate",
    "DedupPairs",
    "FindBoilerplate",
    "Pairs",
    "dedup_pairs",
    "digests_of",
    "find_boilerplate",
    "part_name",
]

_CAPTIONS = pa.schema([pa.field("digest", pa.binary(16), nullable=False), pa.field("urls", pa.int64(), nullable=False)])


def part_name(number: int) -> str:
    """Of a hash partition."""
    return f"part-{number:05d}"


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Unique pairs, and how many of them each caption has."""

    pairs: Location = output("pairs.parquet", MATCHED)
    rejections: Location = output("rejections.parquet", REJECTIONS)
    captions: Location = output("captions.parquet", _CAPTIONS)
    """One row group per partition of captions."""


@dataclass(frozen=True, kw_only=True)
class DedupPairs(Task[Pairs]):
    """Copies of pairs go."""

    exchanged: Exchanged
    number: int
    partitions: int
    memory_mb: int = apart()
    ledger: LedgerConfig

    version = 2

    @property
    def needs(self) -> Needs:
        return Needs(memory_mb=WORKER_MB + self.memory_mb)

    def work(self, out: Pairs) -> Info:
        ledger = Ledger(out.rejections.local, self.ledger)
        before = Neighbours()
        digests: list[npt.NDArray[np.void]] = []
        rows = 0

        def kept() -> Iterator[pa.RecordBatch]:
            nonlocal rows
            read = read_blocks(self.exchanged, self.number)
            spill = spill_beside(out.pairs.local)
            for batch in in_order(read, "pair", self.memory_mb, spill):
                rows += batch.num_rows
                reasons = verdicts(batch, "pair", before)
                plain = batch.select(MATCHED.names)
                keep = ledger.add("dedup", "pair", reject(plain, stage="dedup", reasons=reasons))
                digests.append(digests_of(keep.column("caption")))
                yield keep

        unique = write_parquet(out.pairs.local, kept(), MATCHED)
        _write_captions(out.captions.local, np.concatenate([np.empty(0, "V16"), *digests]), self.partitions)
        return {"rows": rows, "kept": unique, "lines": ledger.close()}


@step("pairs", DedupPairs, title="dedup pairs", per="hash partition", stages=["dedup"])
def dedup_pairs(run: Run, exchanged: Data[Blocks], partitions: int, config: DedupConfig) -> Iterator[DedupPairs]:
    """One task per hash partition."""
    blocks = Exchanged.of(exchanged)
    for number in range(partitions):
        yield DedupPairs(
            partition=part_name(number),
            exchanged=blocks,
            number=number,
            partitions=partitions,
            memory_mb=config.memory_mb,
            ledger=run.ledger,
        )


@dataclass(frozen=True, kw_only=True)
class Boilerplate:
    """Captions on more than the limit of URLs."""

    boilerplate: Location = output("boilerplate.parquet", _CAPTIONS)


@dataclass(frozen=True, kw_only=True)
class FindBoilerplate(Task[Boilerplate]):
    """Those of a partition of captions."""

    captions: Files
    number: int
    most: int
    memory_mb: int = apart()

    version = 2

    @property
    def needs(self) -> Needs:
        return Needs(memory_mb=WORKER_MB + self.memory_mb)

    def work(self, out: Boilerplate) -> Info:
        rows = 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal rows
            for file in self.captions:
                for group in read_row_groups(file, self.number, len(self.captions)):
                    for batch in group.to_batches():
                        rows += batch.num_rows
                        yield batch.cast(_CAPTIONS)

        path = out.boilerplate.local
        streams = {"captions": (_CAPTIONS, batches())}
        with open_duckdb(spill_beside(path), memory_mb=self.memory_mb, streams=streams) as database:
            found = database.sql(
                "SELECT digest, sum(urls)::BIGINT AS urls FROM captions GROUP BY digest "
                f"HAVING sum(urls) > {self.most} ORDER BY digest"
            ).to_arrow_table()
        return {"rows": rows, "boilerplate": write_parquet(path, found.cast(_CAPTIONS), _CAPTIONS)}


@step("captions", FindBoilerplate, title="find boilerplate captions", per="hash partition")
def find_boilerplate(run: Run, pairs: Data[Pairs], most: int, memory_mb: int) -> Iterator[FindBoilerplate]:
    """One task per hash partition of captions."""
    captions = pairs.files(lambda out: out.captions)
    for number in range(len(captions)):
        yield FindBoilerplate(
            partition=part_name(number), captions=captions, number=number, most=most, memory_mb=memory_mb
        )


def digests_of(captions: pa.Array) -> npt.NDArray[np.void]:
    """V16[N]: xxh3-128 of every caption."""
    data = b"".join(xxhash.xxh3_128_digest(text.encode("utf-8", "surrogatepass")) for text in captions.to_pylist())
    return np.frombuffer(data, "V16")


def _write_captions(path: Path, digests: npt.NDArray[np.void], partitions: int) -> None:
    """Digests with their numbers, one row group per partition of captions."""
    halves = digests.view(">u8").reshape(-1, 2).astype(np.uint64)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    ordered = halves[order]
    first = np.flatnonzero(np.concatenate(([True], (ordered[1:] != ordered[:-1]).any(axis=1)))[: len(ordered)])
    counts = np.diff(np.append(first, len(ordered)))
    ids = pa.Array.from_buffers(pa.binary(16), len(first), [None, pa.py_buffer(digests[order[first]].tobytes())])
    table = pa.Table.from_arrays([ids, pa.array(counts, pa.int64())], schema=_CAPTIONS)
    where = partition_of(ids, partitions)
    with parquet_writer(path, _CAPTIONS) as writer:
        for partition in range(partitions):  # digests are in order, and partitions are ranges of them
            begin, end = np.searchsorted(where, [partition, partition + 1])
            writer.write_table(table.slice(begin, end - begin), row_group_size=max(1, int(end - begin)))
