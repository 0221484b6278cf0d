"""What the steps from `fetched` to the final balance share: FETCHED in, FETCHED of the pairs that stay out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine import Info, output
from pipeline.records.earlier import as_now
from pipeline.records.ledger import Ledger
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.outcome import Outcome
from pipeline.records.schema import FETCHED, REJECTIONS
from pipeline.storage.checked import read_batches
from pipeline.storage.location import Location
from pipeline.storage.parquet import write_parquet

__all__ = ["Arrived", "Survivors", "judge_survivors", "survivors_of"]

_BATCH_ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class Survivors:
    """The pairs of a staging shard that are still there. A part tells how many `rows`, of these `success`."""

    fetched: Location = output("fetched.parquet", FETCHED)
    rejections: Location = output("rejections.parquet", REJECTIONS)


@dataclass(frozen=True, kw_only=True)
class Arrived(Survivors):
    """The pairs of a staging shard with what came of their requests."""

    fetched: Location = output("fetched.parquet", FETCHED, view="fetched")


def survivors_of(file: Location, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Batches of the FETCHED rows whose picture is there; all columns, or `columns`."""
    wanted = None if columns is None else [*columns, *([] if "status" in columns else ["status"])]
    for batch in read_batches(file, _BATCH_ROWS, wanted):
        kept = batch.filter(pc.equal(batch.column("status"), "success"))
        yield as_now(kept, FETCHED) if columns is None else kept.select(columns)


def judge_survivors(
    fetched: Location,
    out: Survivors,
    ledger: LedgerConfig,
    judges: Sequence[tuple[str, Callable[[pa.RecordBatch], Outcome]]],
) -> Info:
    """The work of a task that turns pairs away: each of `judges` is a stage's name and how it judges a batch."""
    book = Ledger(out.rejections.local, ledger)

    def kept() -> Iterator[pa.RecordBatch]:
        for batch in survivors_of(fetched):
            for number, (stage, judge) in enumerate(judges):
                if number and not batch.num_rows:
                    break  # a stage that is given no row has no line
                batch = book.add(stage, "pair", judge(batch))
            yield batch.select(FETCHED.names).cast(FETCHED)  # without what a stage has added

    rows = write_parquet(out.fetched.local, kept(), FETCHED)
    return {"rows": rows, "success": rows, "lines": book.close()}
