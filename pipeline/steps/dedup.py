"""dedup: MATCHED -> each (canonical URL, caption) once, or each picture once, over the whole set.

    exchange --dedup--> unique                                                  (one task per hash partition by url_id)
    exchange --pairs--> unique pairs --captions--> boilerplate --dedup--> unique      (with max_urls_per_caption)
                        unique pairs --tokens, ...--> rare tokens --dedup--> unique          (with frequent_tokens)

A partition is sorted once (`neighbours.py`). What is counted over the whole set, captions (`boilerplate.py`) and their
tokens (`rare_tokens.py`), is counted of unique pairs, so that a page that was crawled twice counts once.

Also counts, per query, the pairs that contain it: the `counts.npy` of each partition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine import WORKER_MB, Data, Info, Needs, Task, apart, output
from pipeline.records.ledger import Ledger
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.outcome import reject
from pipeline.records.schema import MATCHED, REJECTIONS
from pipeline.steps.boilerplate import Boilerplate, Pairs, dedup_pairs, digests_of, find_boilerplate, part_name
from pipeline.steps.dedup_config import DedupConfig
from pipeline.steps.exchange import Blocks, Exchanged, read_blocks
from pipeline.steps.neighbours import Marks, Neighbours, in_order, verdicts
from pipeline.steps.queries import Queries
from pipeline.steps.rare_tokens import Rare, RareTokens, find_rare_tokens
from pipeline.steps.step import Page, Run, step
from pipeline.steps.texts_config import TextsConfig
from pipeline.storage.checked import check, read_batches
from pipeline.storage.duck import open_duckdb, spill_beside
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import save_vector, write_parquet

__all__ = [
    "DedupBlocks",
    "DropBoilerplate",
    "DropCaptions",
    "Unique",
    "dedup",
    "dedup_blocks",
    "drop_boilerplate",
    "drop_captions",
]

_BATCH_ROWS = 65_536


def dedup(
    page: Page, exchanged: Data[Blocks], queries: Data[Queries], texts: TextsConfig, config: DedupConfig
) -> Data[Unique]:
    """The steps that leave each pair, or each picture, once. Limits over the whole set take more of them."""
    if not config.limits_captions:
        return page.add(dedup_blocks(exchanged, queries, texts.partitions, config))
    pairs = page.add(dedup_pairs(exchanged, texts.partitions, config))
    boilerplate, rare = None, None
    if config.max_urls_per_caption is not None:
        boilerplate = page.add(find_boilerplate(pairs, config.max_urls_per_caption, config.memory_mb))
        if config.frequent_tokens is None and config.max_captions_per_url is None:
            return page.add(drop_boilerplate(pairs, boilerplate, queries, config))
    if config.frequent_tokens is not None:
        rare = find_rare_tokens(page, pairs, config.frequent_tokens, config.memory_mb)
    return page.add(drop_captions(pairs, boilerplate, rare, queries, config))


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

    def _drop(self, out: Unique, stage: str, batches: Iterator[pa.RecordBatch], marks: Marks) -> Info:
        ledger = Ledger(out.rejections.local, self.ledger)
        counts = np.zeros(self.num_queries, np.int64)
        before = Neighbours()
        rows = 0

        def kept() -> Iterator[pa.RecordBatch]:
            nonlocal rows
            order = "pair" if self.by == "pair" else self.keep
            spill = spill_beside(out.unique.local)
            for batch in in_order(batches, order, self.memory_mb, spill, seed=self.seed, marks=marks):
                rows += batch.num_rows
                reasons, details = verdicts(batch, self.by, before), batch.column("detail")
                plain = batch.select(MATCHED.names)
                keep = ledger.add(stage, "pair", reject(plain, stage=stage, reasons=reasons, details=details))
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
        return self._drop(out, "dedup", read_blocks(self.exchanged, self.number), Marks())


@step("dedup", DedupBlocks, title="dedup over the whole set", per="hash partition", stages=["dedup"])
def dedup_blocks(
    run: Run, exchanged: Data[Blocks], queries: Data[Queries], partitions: int, config: DedupConfig
) -> Iterator[DedupBlocks]:
    """One task per hash partition."""
    blocks = Exchanged.of(exchanged)
    for number in range(partitions):
        yield DedupBlocks(
            partition=part_name(number),
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


# --- with limits over the whole set ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DropBoilerplate(_Dedup):
    """From unique pairs: boilerplate goes before one caption a picture is chosen."""

    pairs: Location
    captions: Location
    boilerplate: Files

    def work(self, out: Unique) -> Info:
        return self._drop(out, "captions", read_batches(self.pairs, _BATCH_ROWS), self._marks(out))

    def _marks(self, out: Unique) -> Marks:
        bad = self._here(out)

        def of(batch: pa.RecordBatch) -> tuple[pa.Array, pa.Array]:
            digests = digests_of(batch.column("caption")) if bad else np.empty(0, "V16")
            flags = np.fromiter((digest.tobytes() in bad for digest in digests), bool, len(digests))
            why = np.full(batch.num_rows, None, object)
            why[np.flatnonzero(flags)] = "boilerplate_caption"
            return pa.array(why, pa.string()), pa.nulls(batch.num_rows, pa.string())

        return Marks(of=of)

    def _here(self, out: Unique) -> frozenset[bytes]:
        """Digests of the boilerplate captions that stand in this very partition; the whole list may be large."""
        if not self.boilerplate:
            return frozenset()
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


@dataclass(frozen=True, kw_only=True)
class DropCaptions(DropBoilerplate):
    """Captions with rare tokens go too, and pictures with too many captions."""

    rare: Files
    """Of no file where tokens are not looked at."""
    number: int
    """Of the hash partition."""
    max_captions_per_url: int | None

    def _marks(self, out: Unique) -> Marks:
        boilerplate = super()._marks(out).of
        rare = RareTokens(self.rare, self.number)

        def of(batch: pa.RecordBatch) -> tuple[pa.Array, pa.Array]:
            why, detail = boilerplate(batch)
            tokens = rare.first_in(batch.column("caption"))
            is_rare = pc.and_(pc.is_null(why), pc.is_valid(tokens))
            return pc.if_else(is_rare, "rare_token", why), pc.if_else(is_rare, tokens, detail)

        return Marks(of=of, max_captions_per_url=self.max_captions_per_url)


@step("dedup", DropCaptions, title="dedup over the whole set", per="hash partition", stages=["captions"])
def drop_captions(
    run: Run,
    pairs: Data[Pairs],
    captions: Data[Boilerplate] | None,
    rare: Data[Rare] | None,
    queries: Data[Queries],
    config: DedupConfig,
) -> Iterator[DropCaptions]:
    """One task per hash partition."""
    boilerplate = Files([]) if captions is None else captions.files(lambda out: out.boilerplate)
    rare_files = Files([]) if rare is None else rare.files(lambda out: out.rare)
    for number, part in enumerate(pairs.parts):
        yield DropCaptions(
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
            rare=rare_files,
            number=number,
            max_captions_per_url=config.max_captions_per_url,
        )
