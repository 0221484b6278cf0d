"""The select steps: count, threshold, balance, and the plan of what to fetch.

    unique (hash partitions) --count--> counts --gather--> edges --threshold--> thresholds
    unique + thresholds --balance--> chosen --schedule--> one SELECTED file per staging shard

Staging shards are equal ranges of `order`, the keyed hash of (seed, url_id): each is a random sample of
the set, every URL belongs to exactly one, and shard after shard they are in the data set's final order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from configs.load import from_mapping, to_mapping
from pipeline.engine import Done, Task
from pipeline.identity import first_64_bits, keyed_hash
from pipeline.ledger import Ledger, LedgerConfig
from pipeline.schema import MATCHED, QUERY_COUNTS, SELECTED
from pipeline.stages.balance import (
    EDGES,
    BalanceConfig,
    Thresholds,
    balance,
    find_thresholds,
    gather,
    head_bounds,
    ids_of,
)
from pipeline.steps.step import Step, add_up, key_of, load_vector, save_vector
from pipeline.storage import write_parquet

__all__ = ["VERSION", "plan_balance", "plan_count", "plan_gather", "plan_report", "plan_schedule", "plan_threshold"]

VERSION = "select-1"
_BATCH_ROWS = 65_536
_CHOSEN = pa.schema([*SELECTED][:-1])  # all of SELECTED but the staging shard, which nobody knows yet


def _batches(path: str) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH_ROWS):
            yield batch.cast(MATCHED)


def _paths(done: Sequence[Done], directory: Path, kind: str) -> list[str]:
    return [str(record.path(directory, kind)) for record in done]


# --- count: how many distinct pairs contain each query ------------------------------------------


def plan_count(unique: Sequence[Done], directory: Path) -> Step:
    """One task that adds the partitions' counts up."""
    task = Task(
        partition="all",
        work=_count,
        arguments={"counts": _paths(unique, directory, "counts.npy")},
        outputs=("all.counts.npy",),
        key=key_of(VERSION, unique, "count"),
    )
    return Step(name="count", title="count pairs per query", tasks=[task])


def _count(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    (path,) = outputs.values()
    counts = add_up(arguments["counts"])
    save_vector(path, counts)
    return {"matches": int(counts.sum())}


# --- gather and threshold: where each head query's sample ends ----------------------------------


def plan_gather(
    unique: Sequence[Done],
    directory: Path,
    counts: tuple[Done, Path],
    queries: tuple[Done, Path],
    config: BalanceConfig,
    seed: int,
) -> Step:
    """One task per hash partition: the head queries' smallest edges."""
    tasks = []
    for record in unique:
        arguments = {
            "unique": str(record.path(directory, "unique")),
            "counts": str(counts[0].path(counts[1], "counts.npy")),
            "query_hashes": str(queries[0].path(queries[1], "query_hashes.npy")),
            "config": to_mapping(config),
            "seed": seed,
        }
        key = key_of(VERSION, [record, counts[0], queries[0]], config, seed)
        name = f"{record.partition}.edges.parquet"
        tasks.append(Task(partition=record.partition, work=_gather, arguments=arguments, outputs=(name,), key=key))
    return Step(name="gather", title="gather edges of head queries", tasks=tasks)


def _gather(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    (path,) = outputs.values()
    config = from_mapping(BalanceConfig, arguments["config"])
    bounds = head_bounds(np.asarray(load_vector(arguments["counts"])), config)
    rows = write_parquet(path, _gathered(arguments["unique"], config, arguments, bounds), EDGES)
    return {"rows": rows}


def _gathered(
    unique: str, config: BalanceConfig, arguments: Mapping[str, Any], bounds: npt.NDArray[np.uint64]
) -> Iterator[pa.RecordBatch]:
    hashes = np.asarray(load_vector(arguments["query_hashes"]))
    for batch in _batches(unique):
        yield gather(batch, config, seed=arguments["seed"], query_hashes=hashes, bounds=bounds)


def plan_threshold(
    gathered: Sequence[Done],
    directory: Path,
    unique: tuple[Sequence[Done], Path],
    counts: tuple[Done, Path],
    queries: tuple[Done, Path],
    config: BalanceConfig,
    seed: int,
) -> Step:
    """One task that finds every query's threshold."""
    task = Task(
        partition="all",
        work=_threshold,
        arguments={
            "edges": _paths(gathered, directory, "edges"),
            "unique": _paths(*unique, "unique"),
            "counts": str(counts[0].path(counts[1], "counts.npy")),
            "query_hashes": str(queries[0].path(queries[1], "query_hashes.npy")),
            "config": to_mapping(config),
            "seed": seed,
        },
        outputs=("all.hashes.npy", "all.uids.npy"),
        key=key_of(VERSION, [*gathered, *unique[0], counts[0], queries[0]], config, seed),
    )
    return Step(name="threshold", title="find thresholds", tasks=[task])


def _threshold(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    hashes_path, uids_path = outputs.values()
    config = from_mapping(BalanceConfig, arguments["config"])
    counts = np.asarray(load_vector(arguments["counts"]))
    edges = pa.concat_tables([pq.read_table(path, schema=EDGES) for path in arguments["edges"]])
    thresholds, short = find_thresholds(edges, counts, config)
    if len(short):  # too little slack for these queries: gather all of their edges
        bounds = np.zeros(len(counts), np.uint64)
        bounds[short] = np.uint64(0xFFFFFFFFFFFFFFFF)
        again = [b for path in arguments["unique"] for b in _gathered(path, config, arguments, bounds)]
        rest = edges.filter(pa.array(~np.isin(edges["query_id"].to_numpy(), short)))
        edges = pa.concat_tables([rest, pa.Table.from_batches(again, EDGES)])
        thresholds, _ = find_thresholds(edges, counts, config)
    save_vector(hashes_path, thresholds.hashes)
    save_vector(uids_path, thresholds.uids.view(np.uint8).reshape(-1, 16))
    head = int((counts > config.max_pairs_per_query).sum())
    return {"rows": edges.num_rows, "head_queries": head, "gathered_again": len(short)}


# --- balance: which pairs are selected -----------------------------------------------------------


def plan_balance(
    unique: Sequence[Done],
    directory: Path,
    thresholds: tuple[Done, Path],
    queries: tuple[Done, Path],
    config: BalanceConfig,
    seed: int,
    ledger: LedgerConfig,
) -> Step:
    """One task per hash partition: the selected pairs, in the data set's order."""
    tasks = []
    for record in unique:
        name = record.partition
        arguments = {
            "unique": str(record.path(directory, "unique")),
            "threshold_hashes": str(thresholds[0].path(thresholds[1], "hashes.npy")),
            "threshold_uids": str(thresholds[0].path(thresholds[1], "uids.npy")),
            "query_hashes": str(queries[0].path(queries[1], "query_hashes.npy")),
            "config": to_mapping(config),
            "ledger": to_mapping(ledger),
            "seed": seed,
        }
        outputs = tuple(
            f"{name}.{kind}" for kind in ("chosen.parquet", "rejections.parquet", "selected.npy", "contained.npy")
        )
        key = key_of(VERSION, [record, thresholds[0], queries[0]], config, seed, ledger)
        tasks.append(Task(partition=name, work=_balance, arguments=arguments, outputs=outputs, key=key))
    return Step(name="balance", title="balance", tasks=tasks)


def _balance(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    chosen_path, rejections_path, selected_path, contained_path = outputs.values()
    config = from_mapping(BalanceConfig, arguments["config"])
    hashes = np.asarray(load_vector(arguments["query_hashes"]))
    uids = np.ascontiguousarray(load_vector(arguments["threshold_uids"])).view("V16").ravel()
    thresholds = Thresholds(hashes=np.asarray(load_vector(arguments["threshold_hashes"])), uids=uids)
    ledger = Ledger(rejections_path, from_mapping(LedgerConfig, arguments["ledger"]))
    seed = arguments["seed"]
    kept: list[pa.RecordBatch] = []
    rows = 0
    for batch in _batches(arguments["unique"]):
        rows += batch.num_rows
        outcome = balance(batch, config, seed=seed, query_hashes=hashes, thresholds=thresholds)
        kept.append(ledger.add("balance", "pair", outcome))
    schema = pa.schema([*_CHOSEN][:-1])
    table = pa.Table.from_batches([batch.cast(schema) for batch in kept], schema).combine_chunks()
    if table.num_rows:
        order = keyed_hash(seed, first_64_bits(ids_of(table["url_id"].combine_chunks())))
    else:
        order = np.empty(0, np.uint64)
    table = table.append_column(_CHOSEN.field("order"), pa.array(order, pa.uint64()))
    table = table.sort_by([("order", "ascending"), ("uid", "ascending")])
    write_parquet(chosen_path, table, _CHOSEN)
    for column, path in (("selected_by", selected_path), ("query_ids", contained_path)):
        ids = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        save_vector(path, np.bincount(ids, minlength=len(hashes)).astype(np.int64))
    return {"rows": rows, "selected": table.num_rows, "lines": ledger.close()}


def plan_report(
    chosen: Sequence[Done], directory: Path, counts: tuple[Done, Path], thresholds: tuple[Done, Path]
) -> Step:
    """One task: QUERY_COUNTS, before and after."""
    task = Task(
        partition="all",
        work=_report,
        arguments={
            "counts": str(counts[0].path(counts[1], "counts.npy")),
            "hashes": str(thresholds[0].path(thresholds[1], "hashes.npy")),
            "selected": _paths(chosen, directory, "selected.npy"),
            "contained": _paths(chosen, directory, "contained.npy"),
        },
        outputs=("all.query_counts.parquet",),
        key=key_of(VERSION, [*chosen, counts[0], thresholds[0]], "report"),
    )
    return Step(name="query_counts", title="count selections per query", tasks=[task])


def _report(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    (path,) = outputs.values()
    counts = np.asarray(load_vector(arguments["counts"]))
    columns = [
        pa.array(np.arange(len(counts), dtype=np.int32)),
        pa.array(counts),
        pa.array(np.asarray(load_vector(arguments["hashes"]))),
        pa.array(add_up(arguments["selected"])),
        pa.array(add_up(arguments["contained"])),
    ]
    rows = write_parquet(path, pa.Table.from_arrays(columns, schema=QUERY_COUNTS), QUERY_COUNTS)
    return {"rows": rows}


# --- schedule: which staging shard fetches what --------------------------------------------------


def plan_schedule(chosen: Sequence[Done], directory: Path, samples_per_shard: int) -> Step:
    """One task per staging shard: the pairs of its range of `order`, from every partition."""
    total = sum(int(record.info["selected"]) for record in chosen)
    shards = max(1, math.ceil(total / samples_per_shard))
    key = key_of(VERSION, chosen, shards)
    tasks = []
    for shard in range(shards):
        name = f"{shard:05d}"
        arguments = {
            "chosen": _paths(chosen, directory, "chosen"),
            "shard": shard,
            "first": _bound(shard, shards),
            "last": _bound(shard + 1, shards) - 1,
        }
        outputs = (f"{name}.selected.parquet",)
        tasks.append(Task(partition=name, work=_schedule, arguments=arguments, outputs=outputs, key=f"{key}-{shard}"))
    return Step(name="schedule", title="spread over staging shards", tasks=tasks)


def _bound(shard: int, shards: int) -> int:
    """The first `order` of a staging shard: equal ranges of the 64-bit space."""
    return -(-(shard << 64) // shards)


def _schedule(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    (path,) = outputs.values()
    first, last = (pa.scalar(arguments[name], pa.uint64()) for name in ("first", "last"))
    parts = []
    for name in arguments["chosen"]:
        part = pq.read_table(name, filters=[("order", ">=", first), ("order", "<=", last)])
        parts.append(part.cast(_CHOSEN))
    table = pa.concat_tables(parts).sort_by([("order", "ascending"), ("uid", "ascending")])
    shard = pa.array(np.full(table.num_rows, arguments["shard"], np.int32))
    table = table.append_column(SELECTED.field("staging_shard"), shard)
    return {"rows": write_parquet(path, table, SELECTED)}
