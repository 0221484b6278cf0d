"""permitted: the unique pairs less those that a robots.txt forbids which the crawl has captured; before any is chosen.

So no query's quota waits for what may not be fetched. Nothing is requested: pairs of hosts that no archive covers pass,
and their hosts are asked once the plan is there (`live.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import pyarrow as pa

from pipeline.consent.config import ConsentConfig
from pipeline.consent.robots_rules import RobotsSignals
from pipeline.consent.robots_table import Robots, TableFiles
from pipeline.engine import Data, Info, Needs, Task, output
from pipeline.records.earlier import as_now
from pipeline.records.ledger import Ledger
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.outcome import reject
from pipeline.records.schema import MATCHED, REJECTIONS
from pipeline.stages.fetch.config import FetchConfig
from pipeline.steps.dedup import Unique
from pipeline.steps.queries import Queries
from pipeline.steps.robots.archives import HostRobots, table_of
from pipeline.steps.step import Page, Run, step
from pipeline.storage.checked import read_batches
from pipeline.storage.location import Location
from pipeline.storage.parquet import save_vector, write_parquet

__all__ = ["COVERAGE", "Permit", "Permitted", "is_from", "permit", "permitted"]

STAGE = "robots"
_BATCH_ROWS = 65_536
COVERAGE = pa.schema(
    [
        pa.field("covered", pa.bool_(), nullable=False),  # whether an archive has the host's robots.txt
        pa.field("pairs", pa.int64(), nullable=False),
        pa.field("rejected", pa.int64(), nullable=False),
    ]
)
"""Of the pairs of a hash partition how many could be judged without a request."""


@dataclass(frozen=True, kw_only=True)
class Permitted(Unique):
    """The pairs that no captured robots.txt forbids. A part tells how many are `covered`."""

    unique: Location = output("unique.parquet", MATCHED, view="permitted")
    rejections: Location = output("rejections.parquet", REJECTIONS)
    counts: Location = output("counts.npy")
    coverage: Location = output("coverage.parquet", COVERAGE, view="robots_coverage")


@dataclass(frozen=True, kw_only=True)
class Permit(Task[Permitted]):
    """Judge the pairs of a hash partition."""

    unique: Location
    robots: TableFiles
    signals: RobotsSignals
    common_crawl: tuple[str, ...]
    num_queries: int
    ledger: LedgerConfig

    needs = Needs(memory_mb=1500)

    def work(self, out: Permitted) -> Info:
        ledger = Ledger(out.rejections.local, self.ledger)
        robots = Robots([self.robots], self.signals)
        counts = np.zeros(self.num_queries, np.int64)
        rows = covered = rejected = 0

        def kept() -> Iterator[pa.RecordBatch]:
            nonlocal rows, covered, rejected
            for batch in read_batches(self.unique, _BATCH_ROWS):
                urls, crawled = batch.column("url").to_pylist(), is_from(self.common_crawl, batch.column("source"))
                verdicts = list(robots.verdicts(urls, crawled))
                reasons = pa.array(
                    [None if verdict is None else verdict.reason for verdict, _ in verdicts], pa.string()
                )
                details = pa.array(
                    [None if verdict is None else verdict.detail for verdict, _ in verdicts], pa.string()
                )
                plain = as_now(batch, MATCHED)
                keep = ledger.add(STAGE, "pair", reject(plain, stage=STAGE, reasons=reasons, details=details))
                rows += batch.num_rows
                covered += sum(known for _, known in verdicts)
                rejected += batch.num_rows - keep.num_rows
                ids = keep.column("query_ids").flatten().to_numpy(zero_copy_only=False)
                counts[:] += np.bincount(ids, minlength=len(counts))
                yield keep

        permitted = write_parquet(out.unique.local, kept(), MATCHED)
        save_vector(out.counts.local, counts)
        told = [
            {"covered": True, "pairs": covered, "rejected": rejected},
            {"covered": False, "pairs": rows - covered, "rejected": 0},
        ]
        write_parquet(out.coverage.local, pa.Table.from_pylist(told, schema=COVERAGE), COVERAGE)
        return {"rows": rows, "kept": permitted, "covered": covered, "lines": ledger.close()}


@step("permitted", Permit, title="decide by captured robots.txt", per="hash partition", stages=[STAGE])
def permit(
    run: Run,
    unique: Data[Unique],
    captured: Data[HostRobots],
    queries: Data[Queries],
    consent: ConsentConfig,
    fetch: FetchConfig,
) -> Iterator[Permit]:
    """One task per hash partition."""
    robots = table_of(captured)
    signals = RobotsSignals.of(consent, fetch.product)
    for part in unique.parts:
        yield Permit(
            partition=part.name,
            unique=part.files.unique,
            robots=robots,
            signals=signals,
            common_crawl=consent.common_crawl,
            num_queries=int(queries.only.info["num_queries"]),
            ledger=run.ledger,
        )


def permitted(
    page: Page,
    unique: Data[Unique],
    captured: Data[HostRobots] | None,
    queries: Data[Queries],
    consent: ConsentConfig,
    fetch: FetchConfig,
) -> Data[Unique]:
    """The step that leaves what `captured` allows; where nothing is captured, the pairs as they are."""
    if captured is None:
        return unique
    allowed: Data[Permitted] = page.add(permit(unique, captured, queries, consent, fetch))
    return allowed


def is_from(patterns: Sequence[str], sources: pa.Array) -> list[bool]:
    """Of each row whether the name of its source fits one of `patterns`."""
    encoded = sources.dictionary_encode()
    fits = [any(fnmatchcase(source, pattern) for pattern in patterns) for source in encoded.dictionary.to_pylist()]
    return [fits[index] for index in encoded.indices.to_pylist()]
