"""image_dedup: FETCHED -> FETCHED with one picture of those that are the same or look the same, over the whole set.

    FETCHED --pictures--> one row per picture, in row groups by hash partition
            --same_pictures--> losers, winners (per partition)
    in mode near, winners --near_pictures--> pairs (per band and key range) --clusters, by thumbnail--> more losers
    FETCHED + losers --image_dedup--> FETCHED (per staging shard)

Of equals the largest original stays, then the first in the set's order. A picture stands or falls with all
its pairs. Nothing here holds the set: a partition's pictures, a key range's hashes, the pairs that look alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine import Data, Info, Task
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.outcome import Outcome, reject
from pipeline.steps.judges.image_dedup_config import ImageDedupConfig
from pipeline.steps.judges.near_pictures import choose_alike, find_alike
from pipeline.steps.judges.same_pictures import Gone, find_equal, list_pictures
from pipeline.steps.judges.survivors import Survivors, judge_survivors
from pipeline.steps.step import Page, Run, step
from pipeline.storage.checked import read_part
from pipeline.storage.location import Files, Location

__all__ = ["DropPictures", "drop_pictures", "image_dedup"]


# --- image_dedup: what that means for each pair ---------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DropPictures(Task[Survivors]):
    """The pairs of a staging shard without those whose picture goes."""

    fetched: Location
    gone: Files
    ledger: LedgerConfig

    version = 2

    def work(self, out: Survivors) -> Info:
        return judge_survivors(self.fetched, out, self.ledger, [("image_dedup", self._judge)])

    def _judge(self, batch: pa.RecordBatch) -> Outcome:
        gone = _gone(self.gone, batch.column("order")) if batch.num_rows else {}
        reasons: list[str | None] = []
        details: list[str | None] = []
        for url_id in batch.column("url_id").to_pylist():
            kept, reason = gone.get(url_id, (None, None))
            reasons.append(reason)
            details.append(None if kept is None else kept.hex())
        return reject(
            batch, stage="image_dedup", reasons=pa.array(reasons, pa.string()), details=pa.array(details, pa.string())
        )


def _gone(files: Sequence[Location], orders: pa.Array) -> dict[bytes, tuple[bytes, str]]:
    """url_id -> (kept uid, reason) of the pictures in this range of `order` that go."""
    span = pc.min_max(orders)
    found: dict[bytes, tuple[bytes, str]] = {}
    for file in files:
        table = read_part(file, [("order", ">=", span["min"]), ("order", "<=", span["max"])])
        columns = (table[column].to_pylist() for column in ("url_id", "kept", "reason"))
        found.update((url_id, (kept, reason)) for url_id, kept, reason in zip(*columns, strict=True))
    return found


@step(
    "image_dedup",
    DropPictures,
    title="drop pictures that are there already",
    per="staging shard",
    stages=["image_dedup"],
)
def drop_pictures(run: Run, arrived: Data[Survivors], *gone: Data[Gone]) -> Iterator[DropPictures]:
    """One task per staging shard, named like it."""
    files = Files(file for data in gone for file in data.files(lambda out: out.gone))
    for part in arrived.parts:
        yield DropPictures(partition=part.name, fetched=part.files.fetched, gone=files, ledger=run.ledger)


# --- all of them ----------------------------------------------------------------------------------


def image_dedup(page: Page, arrived: Data[Survivors], config: ImageDedupConfig) -> Data[Survivors]:
    """The steps of every mode but off."""
    pictures = page.add(list_pictures(arrived, config))
    equal = page.add(find_equal(pictures, config))
    if config.mode != "near":
        return page.add(drop_pictures(arrived, equal))
    pairs = page.add(find_alike(equal, config))
    alike = page.add(choose_alike(pairs, equal))
    return page.add(drop_pictures(arrived, equal, alike))
