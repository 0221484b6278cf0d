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

from pipeline.checked import read_part
from pipeline.engine import Done, Task
from pipeline.schema import SELECTED
from pipeline.steps.step import Step, key_of
from pipeline.storage import write_parquet

__all__ = ["CHOSEN", "VERSION", "bound", "plan", "shards_of"]

VERSION = "schedule-2"
_SHARDS_PER_TASK = 64
"""Each task opens every file of chosen pairs, so it had better write many shards."""
CHOSEN = pa.schema([*SELECTED][:-1])
"""All of SELECTED but the staging shard, which nobody knows before the plan is whole."""


def plan(chosen: Sequence[Done], directory: Path, samples_per_shard: int) -> Step:
    """One task per block of staging shards: the pairs of its range of `order`, from every partition."""
    total = sum(int(record.info["selected"]) for record in chosen)
    shards = max(1, math.ceil(total / samples_per_shard))
    key = key_of(VERSION, chosen, shards)
    files = [record.file(directory, "chosen") for record in chosen]
    tasks = []
    for begin in range(0, shards, _SHARDS_PER_TASK):
        block = range(begin, min(begin + _SHARDS_PER_TASK, shards))
        arguments = {"chosen": files, "begin": begin, "bounds": [bound(i, shards) for i in (*block, block[-1] + 1)]}
        outputs = tuple(f"{shard:05d}.selected.parquet" for shard in block)
        name = f"from-{begin:05d}"
        tasks.append(Task(partition=name, work=_work, arguments=arguments, outputs=outputs, key=f"{key}-{begin}"))
    return Step(name="schedule", title="spread over staging shards", tasks=tasks)


def shards_of(blocks: Sequence[Done]) -> list[Done]:
    """One record per staging shard, in order, from those of the blocks."""
    return [
        Done(partition=shard["name"], key=block.key, outputs={name: block.outputs[name]}, info=shard)
        for block in blocks
        for shard in block.info["shards"]
        for name in (f"{shard['name']}.selected.parquet",)
    ]


def bound(shard: int, shards: int) -> int:
    """The first `order` of a staging shard: equal ranges of the 64-bit space."""
    return -(-(shard << 64) // shards)


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    bounds = arguments["bounds"]
    first, last = pa.scalar(bounds[0], pa.uint64()), pa.scalar(bounds[-1] - 1, pa.uint64())
    parts = []
    for file in arguments["chosen"]:
        part = read_part(file, [("order", ">=", first), ("order", "<=", last)])
        parts.append(part.cast(CHOSEN))
    table = pa.concat_tables(parts).sort_by([("order", "ascending"), ("uid", "ascending")])
    order = table["order"].to_numpy()
    shards = []
    for i, path in enumerate(outputs.values()):
        shard = arguments["begin"] + i
        begin, end = np.searchsorted(order, np.array([bounds[i], bounds[i + 1] - 1], np.uint64), side="left")
        end += np.searchsorted(order[end:], np.uint64(bounds[i + 1] - 1), side="right")
        rows = table.slice(begin, end - begin)
        number = pa.array(np.full(rows.num_rows, shard, np.int32))
        rows = write_parquet(path, rows.append_column(SELECTED.field("staging_shard"), number), SELECTED)
        shards.append({"name": f"{shard:05d}", "rows": rows, "first": bounds[i], "last": bounds[i + 1] - 1})
    return {"rows": table.num_rows, "shards": shards}
