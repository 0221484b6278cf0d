"""schedule: the chosen pairs of all hash partitions -> one SELECTED file per staging shard.

Staging shards are equal ranges of `order`, the keyed hash of (seed, url_id): each is a random sample of
the set, every URL belongs to exactly one, and shard after shard they are in the data set's final order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.engine import Data, Info, Needs, TaskOfParts, output
from pipeline.records.earlier import as_now
from pipeline.records.schema import SELECTED
from pipeline.steps.balance.plan import CHOSEN, Chosen
from pipeline.steps.step import Run, step
from pipeline.storage.ahead import read_each
from pipeline.storage.checked import read_part
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import write_parquet

__all__ = ["Schedule", "Selected", "bound", "schedule"]

_SHARDS_PER_TASK = 64
"""Each task opens every file of chosen pairs, so it had better write many shards."""


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The pairs of a staging shard. A part tells its range of `order`: `first`, `last`."""

    selected: Location = output("selected.parquet", SELECTED, view="selected")


@dataclass(frozen=True, kw_only=True)
class Schedule(TaskOfParts[Selected]):
    """The pairs of a block of staging shards, from every partition."""

    chosen: Files
    begin: int
    bounds: tuple[int, ...]
    """The first `order` of each shard, and of the one after the last."""

    version = 3
    needs = Needs(memory_mb=1000)

    @property
    def parts(self) -> Sequence[str]:
        return [f"{self.begin + i:05d}" for i in range(len(self.bounds) - 1)]

    def work(self, outs: Mapping[str, Selected]) -> Info:
        first, last = pa.scalar(self.bounds[0], pa.uint64()), pa.scalar(self.bounds[-1] - 1, pa.uint64())
        within = [("order", ">=", first), ("order", "<=", last)]
        read = read_each(self.chosen, lambda file: as_now(read_part(file, within), CHOSEN))
        table = pa.concat_tables(list(read)).sort_by([("order", "ascending"), ("uid", "ascending")])
        order = table["order"].to_numpy()
        parts = []
        for i, (name, out) in enumerate(outs.items()):
            first_order, last_order = self.bounds[i], self.bounds[i + 1] - 1
            begin, end = np.searchsorted(order, np.array([first_order, last_order], np.uint64), side="left")
            end += np.searchsorted(order[end:], np.uint64(last_order), side="right")
            rows = table.slice(begin, end - begin)
            number = pa.array(np.full(rows.num_rows, self.begin + i, np.int32))
            rows = rows.append_column(SELECTED.field("staging_shard"), number)
            num_rows = write_parquet(out.selected.local, rows, SELECTED)
            parts.append({"name": name, "rows": num_rows, "first": first_order, "last": last_order})
        return {"rows": table.num_rows, "parts": parts}


@step("schedule", Schedule, title="spread over staging shards", per="64 shards")
def schedule(run: Run, chosen: Data[Chosen], samples_per_shard: int) -> Iterator[Schedule]:
    """One task per block of staging shards."""
    shards = max(1, math.ceil(chosen.total("selected") / samples_per_shard))
    files = chosen.files(lambda out: out.chosen)
    for begin in range(0, shards, _SHARDS_PER_TASK):
        end = min(begin + _SHARDS_PER_TASK, shards)
        bounds = tuple(bound(shard, shards) for shard in range(begin, end + 1))
        yield Schedule(partition=f"from-{begin:05d}", chosen=files, begin=begin, bounds=bounds)


def bound(shard: int, shards: int) -> int:
    """The first `order` of a staging shard: equal ranges of the 64-bit space."""
    return -(-(shard << 64) // shards)
