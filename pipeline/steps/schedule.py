"""schedule: the chosen pairs of all hash partitions -> one SELECTED file per staging shard.

Staging shards are equal ranges of `order`, the keyed hash of (seed, url_id): each is a random sample of
the set, every URL belongs to exactly one, and shard after shard they are in the data set's final order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine import Done, Task
from pipeline.schema import SELECTED
from pipeline.steps.step import Step, key_of
from pipeline.storage import write_parquet

__all__ = ["CHOSEN", "VERSION", "plan"]

VERSION = "schedule-1"
CHOSEN = pa.schema([*SELECTED][:-1])
"""All of SELECTED but the staging shard, which nobody knows before the plan is whole."""


def plan(chosen: Sequence[Done], directory: Path, samples_per_shard: int) -> Step:
    """One task per staging shard: the pairs of its range of `order`, from every partition."""
    total = sum(int(record.info["selected"]) for record in chosen)
    shards = max(1, math.ceil(total / samples_per_shard))
    key = key_of(VERSION, chosen, shards)
    files = [str(record.path(directory, "chosen")) for record in chosen]
    tasks = []
    for shard in range(shards):
        name = f"{shard:05d}"
        first, last = bound(shard, shards), bound(shard + 1, shards) - 1
        arguments = {"chosen": files, "shard": shard, "first": first, "last": last}
        outputs = (f"{name}.selected.parquet",)
        tasks.append(Task(partition=name, work=_work, arguments=arguments, outputs=outputs, key=f"{key}-{shard}"))
    return Step(name="schedule", title="spread over staging shards", tasks=tasks)


def bound(shard: int, shards: int) -> int:
    """The first `order` of a staging shard: equal ranges of the 64-bit space."""
    return -(-(shard << 64) // shards)


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    (path,) = outputs.values()
    first, last = (pa.scalar(arguments[name], pa.uint64()) for name in ("first", "last"))
    parts = []
    for name in arguments["chosen"]:
        part = pq.read_table(name, filters=[("order", ">=", first), ("order", "<=", last)])
        parts.append(part.cast(CHOSEN))
    table = pa.concat_tables(parts).sort_by([("order", "ascending"), ("uid", "ascending")])
    shard = pa.array(np.full(table.num_rows, arguments["shard"], np.int32))
    table = table.append_column(SELECTED.field("staging_shard"), shard)
    rows = write_parquet(path, table, SELECTED)
    return {"rows": rows, "first": arguments["first"], "last": arguments["last"]}
