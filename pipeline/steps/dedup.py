"""dedup: MATCHED -> one row per (canonical URL, caption) over the whole set, by hash partition.

Also counts, per query, the pairs that contain it: the `counts.npy` of each partition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.load import from_mapping, to_mapping
from pipeline.engine import Done, Task
from pipeline.ledger import Ledger, LedgerConfig
from pipeline.outcome import reject
from pipeline.schema import MATCHED
from pipeline.steps.step import Step, key_of, save_vector
from pipeline.storage import write_parquet

__all__ = ["VERSION", "DedupConfig", "plan"]

VERSION = "dedup-1"


@dataclass(frozen=True, kw_only=True)
class DedupConfig:
    """What counts as the same pair."""

    by: Literal["pair", "url"] = "pair"
    """pair: (canonical URL, caption), so that one picture may keep several captions. url: one pair a picture."""
    memory_mb: int = 1024
    """Memory of one dedup task before it spills to disk, in MB."""


def plan(
    matched: Sequence[tuple[Done, Path]],
    *,
    partitions: int,
    num_queries: int,
    config: DedupConfig,
    ledger: LedgerConfig,
) -> Step:
    """One task per hash partition; each reads its row groups of every file of matched pairs."""
    files = [str(done.path(directory, "matched")) for done, directory in matched]
    key = key_of(VERSION, [done for done, _ in matched], partitions, num_queries, config, ledger)
    tasks = []
    for partition in range(partitions):
        name = f"part-{partition:05d}"
        tasks.append(
            Task(
                partition=name,
                work=_work,
                arguments={
                    "files": files,
                    "partition": partition,
                    "partitions": partitions,
                    "num_queries": num_queries,
                    "config": to_mapping(config),
                    "ledger": to_mapping(ledger),
                },
                outputs=(f"{name}.unique.parquet", f"{name}.rejections.parquet", f"{name}.counts.npy"),
                key=f"{key}-{partition}",
            )
        )
    return Step(name="dedup", title="dedup over the whole set", tasks=tasks)


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    unique_path, rejections_path, counts_path = outputs.values()
    config = from_mapping(DedupConfig, arguments["config"])
    ledger = Ledger(rejections_path, from_mapping(LedgerConfig, arguments["ledger"]))
    group = "url_id, caption" if config.by == "pair" else "url_id"
    counts = np.zeros(arguments["num_queries"], np.int64)
    rows = unique = 0
    with duckdb.connect(config={"threads": 1, "memory_limit": f"{config.memory_mb}MB"}) as database:
        database.execute(f"SET temp_directory = '{unique_path}.spill'")
        database.register("matched", _read(arguments))
        # Whichever copy is first by (uid, where it was found) stays: a total order, free of partitions.
        reader = database.sql(
            f"SELECT *, row_number() OVER (PARTITION BY {group} ORDER BY uid, source, record, link) > 1 AS again "
            "FROM matched ORDER BY url_id, uid, source, record, link"
        ).to_arrow_reader(65_536)

        def kept() -> Any:
            nonlocal rows
            for batch in reader:
                rows += batch.num_rows
                again = batch.column("again")
                batch = batch.select(MATCHED.names).cast(MATCHED)
                reasons = pc.if_else(again, pa.scalar("duplicate"), pa.scalar(None, pa.string()))
                keep = ledger.add("dedup", "pair", reject(batch, stage="dedup", reasons=reasons))
                ids = keep.column("query_ids").flatten().to_numpy(zero_copy_only=False)
                counts[:] += np.bincount(ids, minlength=len(counts))
                yield keep

        unique = write_parquet(unique_path, kept(), MATCHED)
    save_vector(counts_path, counts)
    return {"rows": rows, "kept": unique, "lines": ledger.close()}


def _read(arguments: Mapping[str, Any]) -> pa.RecordBatchReader:
    """This partition's row groups of every file, one at a time."""

    def batches() -> Any:
        for name in arguments["files"]:
            with pq.ParquetFile(name) as file:
                for group in range(arguments["partition"], file.num_row_groups, arguments["partitions"]):
                    yield from file.read_row_group(group).cast(MATCHED).to_batches()

    return pa.RecordBatchReader.from_batches(MATCHED, batches())
