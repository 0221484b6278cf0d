"""dedup: MATCHED -> each (canonical URL, caption) once, or each picture once, over the whole set.

    exchange --dedup--> unique                                                  (one task per hash partition by url_id)
    exchange --pairs--> unique pairs --captions--> boilerplate --dedup--> unique      (with max_urls_per_caption)

A partition is sorted once by DuckDB, which spills to disk beyond its memory limit; what follows is a stream
in which copies are neighbours. Captions meet in an exchange of their own: `pairs` sends, per caption, its digest
and the number of its URLs in the partition, so that a caption's count is a sum over partitions.

Also counts, per query, the pairs that contain it: the `counts.npy` of each partition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipeline.engine import WORKER_MB, Data, Info, Needs, Task, apart, output
from pipeline.records.earlier import as_now
from pipeline.records.identity import first_64_bits, keyed_hash
from pipeline.records.ledger import Ledger
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.outcome import reject
from pipeline.records.schema import MATCHED, REJECTIONS
from pipeline.stages.balance.edges import ids_of
from pipeline.steps.dedup_config import DedupConfig
from pipeline.steps.exchange import Blocks, Exchanged, partition_of, read_blocks
from pipeline.steps.queries import Queries
from pipeline.steps.step import Page, Run, step
from pipeline.steps.texts_config import TextsConfig
from pipeline.storage.checked import check, read_batches, read_row_groups
from pipeline.storage.duck import open_duckdb, spill_beside
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import parquet_writer, save_vector, write_parquet

__all__ = [
    "Boilerplate",
    "DedupBlocks",
    "DedupPairs",
    "DropBoilerplate",
    "FindBoilerplate",
    "Pairs",
    "Unique",
    "dedup",
    "dedup_blocks",
    "dedup_pairs",
    "drop_boilerplate",
    "find_boilerplate",
]

_BATCH_ROWS = 65_536
_CAPTIONS = pa.schema([pa.field("digest", pa.binary(16), nullable=False), pa.field("urls", pa.int64(), nullable=False)])
_MARKS = [pa.field("draw", pa.uint64(), nullable=False), pa.field("boilerplate", pa.bool_(), nullable=False)]
_ORDER = {
    "pair": "url_id, boilerplate, caption, uid, source, record, link",
    "hash": "url_id, boilerplate, draw, uid, source, record, link",
    "best": "url_id, boilerplate, p_en DESC, draw, uid, source, record, link",
}
"""What stays comes first among its like: a total order, free of partitions and of the order of files."""


def dedup(
    page: Page, exchanged: Data[Blocks], queries: Data[Queries], texts: TextsConfig, config: DedupConfig
) -> Data[Unique]:
    """The steps that leave each pair, or each picture, once. A limit of URLs a caption takes two more."""
    if config.max_urls_per_caption is None:
        return page.add(dedup_blocks(exchanged, queries, texts.partitions, config))
    pairs = page.add(dedup_pairs(exchanged, texts.partitions, config))
    captions = page.add(find_boilerplate(pairs, config.max_urls_per_caption, config.memory_mb))
    return page.add(drop_boilerplate(pairs, captions, queries, config))


@dataclass(frozen=True, kw_only=True)
class Unique:
    """The pairs of a hash partition that stay. A part tells how many: `kept`."""

    unique: Location = output("unique.parquet", MATCHED, view="deduplicated")
    rejections: Location = output("rejections.parquet", REJECTIONS)
    counts: Location = output("counts.npy")
    """int64[Q]: the pairs that contain each query."""


@dataclass(frozen=True, kw_only=True)
class _Dedup(Task[Unique]):
    """What stays of the rows of a hash partition."""

    by: Literal["pair", "url"]
    keep: Literal["hash", "best"]
    memory_mb: int = apart()
    num_queries: int
    seed: int
    ledger: LedgerConfig

    version = 2

    @property
    def needs(self) -> Needs:
        return Needs(memory_mb=WORKER_MB + self.memory_mb)

    def _drop(self, out: Unique, stage: str, batches: Iterator[pa.RecordBatch], bad: frozenset[bytes]) -> Info:
        ledger = Ledger(out.rejections.local, self.ledger)
        counts = np.zeros(self.num_queries, np.int64)
        before = _Neighbours()
        rows = 0

        def kept() -> Iterator[pa.RecordBatch]:
            nonlocal rows
            order = _ORDER["pair" if self.by == "pair" else self.keep]
            spill = spill_beside(out.unique.local)
            for batch in _sorted(batches, order, self.memory_mb, spill, self.seed, bad):
                rows += batch.num_rows
                reasons = _verdicts(batch, self.by, before)
                plain = batch.select(MATCHED.names)
                keep = ledger.add(stage, "pair", reject(plain, stage=stage, reasons=reasons))
                ids = keep.column("query_ids").flatten().to_numpy(zero_copy_only=False)
                counts[:] += np.bincount(ids, minlength=len(counts))
                yield keep

        unique = write_parquet(out.unique.local, kept(), MATCHED)
        save_vector(out.counts.local, counts)
        return {"rows": rows, "kept": unique, "lines": ledger.close()}


@dataclass(frozen=True, kw_only=True)
class DedupBlocks(_Dedup):
    """Straight from the exchange."""

    exchanged: Exchanged
    number: int
    """Of the hash partition."""
    partitions: int

    def work(self, out: Unique) -> Info:
        return self._drop(out, "dedup", read_blocks(self.exchanged, self.number), frozenset())


@step("dedup", DedupBlocks, title="dedup over the whole set", per="hash partition", stages=["dedup"])
def dedup_blocks(
    run: Run, exchanged: Data[Blocks], queries: Data[Queries], partitions: int, config: DedupConfig
) -> Iterator[DedupBlocks]:
    """One task per hash partition."""
    blocks = Exchanged.of(exchanged)
    for number in range(partitions):
        yield DedupBlocks(
            partition=_name(number),
            by=config.by,
            keep=config.keep,
            memory_mb=config.memory_mb,
            num_queries=int(queries.only.info["num_queries"]),
            seed=run.seed,
            ledger=run.ledger,
            exchanged=blocks,
            number=number,
            partitions=partitions,
        )


def _name(number: int) -> str:
    return f"part-{number:05d}"


# --- with a limit of URLs a caption ---------------------------------------------------------------


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
        before = _Neighbours()
        digests: list[npt.NDArray[np.void]] = []
        rows = 0

        def kept() -> Iterator[pa.RecordBatch]:
            nonlocal rows
            read = read_blocks(self.exchanged, self.number)
            spill = spill_beside(out.pairs.local)
            for batch in _sorted(read, _ORDER["pair"], self.memory_mb, spill, 0, frozenset()):
                rows += batch.num_rows
                reasons = _verdicts(batch, "pair", before)
                plain = batch.select(MATCHED.names)
                keep = ledger.add("dedup", "pair", reject(plain, stage="dedup", reasons=reasons))
                digests.append(_digests(keep.column("caption")))
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
            partition=_name(number),
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
        yield FindBoilerplate(partition=_name(number), captions=captions, number=number, most=most, memory_mb=memory_mb)


@dataclass(frozen=True, kw_only=True)
class DropBoilerplate(_Dedup):
    """From unique pairs: boilerplate goes before one caption a picture is chosen."""

    pairs: Location
    captions: Location
    boilerplate: Files

    def work(self, out: Unique) -> Info:
        return self._drop(out, "captions", read_batches(self.pairs, _BATCH_ROWS), self._here(out))

    def _here(self, out: Unique) -> frozenset[bytes]:
        """Digests of the boilerplate captions that stand in this very partition; the whole list may be large."""
        with open_duckdb(spill_beside(out.unique.local), memory_mb=self.memory_mb) as database:
            for name, files in {"own": [self.captions], "boilerplate": self.boilerplate}.items():
                database.from_parquet([check(file) for file in files]).create_view(name)
            found = database.sql("SELECT digest FROM own SEMI JOIN boilerplate USING (digest)").to_arrow_table()
        return frozenset(found["digest"].to_pylist())


@step("dedup", DropBoilerplate, title="dedup over the whole set", per="hash partition", stages=["captions"])
def drop_boilerplate(
    run: Run, pairs: Data[Pairs], captions: Data[Boilerplate], queries: Data[Queries], config: DedupConfig
) -> Iterator[DropBoilerplate]:
    """One task per hash partition."""
    boilerplate = captions.files(lambda out: out.boilerplate)
    for part in pairs.parts:
        yield DropBoilerplate(
            partition=part.name,
            by=config.by,
            keep=config.keep,
            memory_mb=config.memory_mb,
            num_queries=int(queries.only.info["num_queries"]),
            seed=run.seed,
            ledger=run.ledger,
            pairs=part.files.pairs,
            captions=part.files.captions,
            boilerplate=boilerplate,
        )


# --- reading, sorting, dropping ------------------------------------------------------------------


def _digests(captions: pa.Array) -> npt.NDArray[np.void]:
    """V16[N]: xxh3-128 of every caption."""
    data = b"".join(xxhash.xxh3_128_digest(text.encode("utf-8", "surrogatepass")) for text in captions.to_pylist())
    return np.frombuffer(data, "V16")


def _sorted(
    batches: Iterator[pa.RecordBatch], order: str, memory_mb: int, spill: Path, seed: int, bad: frozenset[bytes]
) -> Iterator[pa.RecordBatch]:
    """MATCHED rows with _MARKS, in `order`."""
    schema = pa.schema([*MATCHED, *_MARKS])

    def marked() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if not batch.num_rows:
                continue
            plain = as_now(batch, MATCHED)
            draws = keyed_hash(seed, first_64_bits(ids_of(plain.column("uid"))))
            if bad:
                flags = np.fromiter((d.tobytes() in bad for d in _digests(plain.column("caption"))), bool, len(plain))
            else:
                flags = np.zeros(batch.num_rows, bool)
            columns = [*plain.columns, pa.array(draws, pa.uint64()), pa.array(flags)]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    with open_duckdb(spill, memory_mb=memory_mb, streams={"rows_in": (schema, marked())}) as database:
        for batch in database.sql(f"SELECT * FROM rows_in ORDER BY {order}").to_arrow_reader(_BATCH_ROWS):
            yield batch.cast(schema)


class _Neighbours:
    """Says for the rows of a sorted stream what each shares with the one that was kept last."""

    def __init__(self) -> None:
        self._url_id = b""
        self._caption = ""

    def shared(self, batch: pa.RecordBatch) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """(bool[N] same URL as the row before, bool[N] same caption too), across batches."""
        urls = pa.concat_arrays([pa.array([self._url_id.ljust(16, b"\0")], pa.binary(16)), batch.column("url_id")])
        texts = pa.concat_arrays([pa.array([self._caption], pa.string()), batch.column("caption")])
        same_url = pc.equal(urls[1:], urls[:-1]).to_numpy(zero_copy_only=False)
        same_text = pc.equal(texts[1:], texts[:-1]).to_numpy(zero_copy_only=False)
        if not self._url_id and len(same_url):
            same_url = np.concatenate(([False], same_url[1:]))
        if batch.num_rows:
            self._url_id, self._caption = batch.column("url_id")[-1].as_py(), batch.column("caption")[-1].as_py()
        return same_url, same_url & same_text


def _verdicts(batch: pa.RecordBatch, by: Literal["pair", "url"], before: _Neighbours) -> pa.Array:
    """string[N]: why a row of the sorted stream goes; null where it stays."""
    same_url, same_pair = before.shared(batch)
    bad = batch.column("boilerplate").to_numpy(zero_copy_only=False)
    reasons = np.full(batch.num_rows, None, object)
    if by == "url":
        reasons[same_url] = "other_caption"
    reasons[same_pair] = "duplicate"
    reasons[bad] = "boilerplate_caption"
    return pa.array(reasons, pa.string())


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
