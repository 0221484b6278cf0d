"""The select steps: count, find t and the windows, gather, threshold, balance.

    unique (hash partitions) --count--> counts --limit--> t, windows --gather--> edges --threshold--> thresholds
    unique + thresholds --balance--> chosen

What each of them computes, and why it is exact, is in `stages/balance`. What grows with the web is read
batch by batch, and only the columns that are needed; what is held is per query, and the chosen rows of one
partition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from configs.load import from_mapping, to_mapping
from pipeline.checked import Vouched, load_vector, read_batches
from pipeline.engine import Done, Task
from pipeline.identity import first_64_bits, keyed_hash
from pipeline.ledger import Ledger, LedgerConfig
from pipeline.schema import MATCHED, QUERY_COUNTS
from pipeline.stages.balance import BalanceConfig, mode_of
from pipeline.stages.balance.edges import EDGES, Gather, edges_of, gather_from, ids_of
from pipeline.stages.balance.limit import planned_limit, selection_limit
from pipeline.stages.balance.thresholds import solve
from pipeline.stages.balance.windows import Windows, find_windows
from pipeline.steps.schedule import CHOSEN
from pipeline.steps.step import Step, add_up, key_of
from pipeline.steps.thresholds import Place, balance_arguments, file_of, open_balance, save_thresholds
from pipeline.storage import parquet_writer, save_vector, write_parquet

__all__ = [
    "VERSION",
    "count_ids",
    "plan_balance",
    "plan_count",
    "plan_gather",
    "plan_limit",
    "plan_report",
    "plan_threshold",
]

VERSION = "select-2"
_BATCH_ROWS = 65_536
_CHOSEN_GROUP_ROWS = 2_048  # few: a task of `schedule` reads a narrow range of `order` from every file
_EDGE_COLUMNS = ["uid", "query_ids"]


def _files(done: Sequence[Done], directory: Path, kind: str) -> list[Vouched]:
    return [record.file(directory, kind) for record in done]


# --- count: how many distinct pairs contain each query ------------------------------------------


def plan_count(unique: Sequence[Done], directory: Path) -> Step:
    """One task that adds the partitions' counts up."""
    task = Task(
        partition="all",
        work=_count,
        arguments={
            "counts": _files(unique, directory, "counts.npy"),
            "pairs": sum(int(record.info["kept"]) for record in unique),
        },
        outputs=("all.counts.npy",),
        key=key_of(VERSION, unique, "count"),
    )
    return Step(name="count", title="count pairs per query", tasks=[task])


def _count(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    (path,) = outputs.values()
    counts = add_up(arguments["counts"])
    save_vector(path, counts)
    return {"matches": int(counts.sum()), "pairs": arguments["pairs"]}


# --- limit: t, and where to look for each head query's threshold ---------------------------------


def plan_limit(counts: Place, config: BalanceConfig) -> Step:
    """One task: t as a number, its reserve, and the windows."""
    task = Task(
        partition="all",
        work=_limit,
        arguments={
            "counts": file_of(counts, "counts.npy"),
            "pairs": counts[0].info["pairs"],
            "config": to_mapping(config),
        },
        outputs=("all.counted.npy", "all.lows.npy", "all.highs.npy"),
        key=key_of(VERSION, [counts[0]], counts[0].info["pairs"], config, "limit"),
    )
    return Step(name="limit", title="find t and the head queries", tasks=[task])


def _limit(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    counted_path, lows_path, highs_path = outputs.values()
    config = from_mapping(BalanceConfig, arguments["config"])
    matches, pairs = np.array(load_vector(arguments["counts"])), int(arguments["pairs"])
    limit = selection_limit(matches, config, pairs=pairs)
    planned = planned_limit(limit, config)
    counts = mode_of(config.mode).counts(matches, pairs)
    windows = find_windows(counts, planned)
    save_vector(counted_path, counts)
    save_vector(lows_path, windows.lows)
    save_vector(highs_path, windows.highs)
    return {"t": limit, "planned_t": planned, "head_queries": int((counts > planned).sum())}


# --- gather and threshold: where each head query's sample ends ----------------------------------


def plan_gather(
    unique: Sequence[Done], directory: Path, limit: Place, queries: Place, config: BalanceConfig, seed: int
) -> Step:
    """One task per hash partition: the head queries' edges in their windows."""
    tasks = []
    for record in unique:
        arguments = {
            "unique": record.file(directory, "unique"),
            "lows": file_of(limit, "lows.npy"),
            "highs": file_of(limit, "highs.npy"),
            "query_hashes": file_of(queries, "query_hashes.npy"),
            "mode": config.mode,
            "seed": seed,
        }
        key = key_of(VERSION, [record, limit[0], queries[0]], config.mode, seed)
        outputs = (f"{record.partition}.edges.parquet", f"{record.partition}.below.npy")
        tasks.append(Task(partition=record.partition, work=_gather, arguments=arguments, outputs=outputs, key=key))
    return Step(name="gather", title="gather edges of head queries", tasks=tasks)


def _gather(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    edges_path, below_path = outputs.values()
    windows = Windows(lows=_load(arguments["lows"]), highs=_load(arguments["highs"]))
    below = np.zeros(len(windows.lows), np.int64)
    rows = write_parquet(edges_path, _gather_from([arguments["unique"]], arguments)(windows, below), EDGES)
    save_vector(below_path, below[windows.needed])  # of the head queries, in their order
    return {"rows": rows}


def _load(file: Vouched) -> np.ndarray[Any, Any]:
    return np.array(load_vector(file))


def _gather_from(unique: Sequence[Vouched], arguments: Mapping[str, Any]) -> Gather:
    return gather_from(
        lambda: (batch for file in unique for batch in read_batches(file, _BATCH_ROWS, _EDGE_COLUMNS)),
        mode_of(arguments["mode"]),
        seed=arguments["seed"],
        query_hashes=_load(arguments["query_hashes"]),
    )


def plan_threshold(
    gathered: Sequence[Done],
    directory: Path,
    unique: tuple[Sequence[Done], Path],
    limit: Place,
    queries: Place,
    config: BalanceConfig,
    seed: int,
) -> Step:
    """One task that finds every query's threshold."""
    task = Task(
        partition="all",
        work=_threshold,
        arguments={
            "edges": _files(gathered, directory, "edges"),
            "below": _files(gathered, directory, "below.npy"),
            "unique": _files(*unique, "unique"),
            "counted": file_of(limit, "counted.npy"),
            "lows": file_of(limit, "lows.npy"),
            "highs": file_of(limit, "highs.npy"),
            "limit": limit[0].info["planned_t"],
            "query_hashes": file_of(queries, "query_hashes.npy"),
            "mode": config.mode,
            "seed": seed,
        },
        outputs=("all.hashes.npy", "all.uids.npy"),
        key=key_of(VERSION, [*gathered, *unique[0], limit[0], queries[0]], config, seed),
    )
    return Step(name="threshold", title="find thresholds", tasks=[task])


def _threshold(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    counts, limit = _load(arguments["counted"]), int(arguments["limit"])
    windows = Windows(lows=_load(arguments["lows"]), highs=_load(arguments["highs"]))
    below = np.zeros(len(counts), np.int64)
    below[windows.needed] = add_up(arguments["below"])
    edges = edges_of((b for file in arguments["edges"] for b in read_batches(file)), below)
    gather = _gather_from(arguments["unique"], arguments)
    thresholds, again = solve(gather, counts, limit, mode_of(arguments["mode"]), gathered=edges)
    save_thresholds(thresholds, outputs)
    return {"rows": len(edges.queries), "gathered_again": again}


# --- balance: which pairs are selected -----------------------------------------------------------


def plan_balance(
    unique: Sequence[Done],
    directory: Path,
    thresholds: Place,
    queries: Place,
    config: BalanceConfig,
    seed: int,
    ledger: LedgerConfig,
) -> Step:
    """One task per hash partition: the selected pairs, in the data set's order."""
    tasks = []
    for record in unique:
        name = record.partition
        arguments = {
            "unique": record.file(directory, "unique"),
            "ledger": to_mapping(ledger),
            **balance_arguments(thresholds, queries, config.mode, seed),
        }
        outputs = tuple(
            f"{name}.{kind}" for kind in ("chosen.parquet", "rejections.parquet", "selected.npy", "contained.npy")
        )
        key = key_of(VERSION, [record, thresholds[0], queries[0]], config.mode, seed, ledger)
        tasks.append(Task(partition=name, work=_balance, arguments=arguments, outputs=outputs, key=key))
    return Step(name="balance", title="balance", tasks=tasks)


def _balance(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    chosen_path, rejections_path, selected_path, contained_path = outputs.values()
    select = open_balance(arguments)
    ledger = Ledger(rejections_path, from_mapping(LedgerConfig, arguments["ledger"]))
    kept: list[pa.RecordBatch] = []
    rows = 0
    for batch in read_batches(arguments["unique"], _BATCH_ROWS):
        rows += batch.num_rows
        kept.append(ledger.add("balance", "pair", select(batch.cast(MATCHED))))
    schema = pa.schema([*CHOSEN][:-1])
    table = pa.Table.from_batches([batch.cast(schema) for batch in kept], schema)
    url_ids = [first_64_bits(ids_of(batch.column("url_id"))) for batch in kept if batch.num_rows]
    orders = keyed_hash(arguments["seed"], np.concatenate([np.empty(0, np.uint64), *url_ids]))
    table = table.append_column(CHOSEN.field("order"), pa.array(orders, pa.uint64()))
    table = table.sort_by([("order", "ascending"), ("uid", "ascending")])
    with parquet_writer(chosen_path, CHOSEN) as writer:
        writer.write_table(table, row_group_size=_CHOSEN_GROUP_ROWS)
    queries = len(load_vector(arguments["query_hashes"]))
    for column, path in (("selected_by", selected_path), ("query_ids", contained_path)):
        save_vector(path, count_ids(table[column], queries))
    return {"rows": rows, "selected": table.num_rows, "lines": ledger.close()}


def count_ids(lists: pa.ChunkedArray, queries: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """int64[Q]: how often each query id stands in a column of lists."""
    counts = np.zeros(queries, np.int64)
    for chunk in lists.chunks:
        counts += np.bincount(chunk.flatten().to_numpy(zero_copy_only=False), minlength=queries)
    return counts


def plan_report(chosen: Sequence[Done], directory: Path, counts: Place, thresholds: Place) -> Step:
    """One task: QUERY_COUNTS, before and after."""
    task = Task(
        partition="all",
        work=_report,
        arguments={
            "counts": file_of(counts, "counts.npy"),
            "hashes": file_of(thresholds, "hashes.npy"),
            "selected": _files(chosen, directory, "selected.npy"),
            "contained": _files(chosen, directory, "contained.npy"),
        },
        outputs=("all.query_counts.parquet",),
        key=key_of(VERSION, [*chosen, counts[0], thresholds[0]], "report"),
    )
    return Step(name="query_counts", title="count selections per query", tasks=[task])


def _report(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    (path,) = outputs.values()
    counts = _load(arguments["counts"])
    columns = [
        pa.array(np.arange(len(counts), dtype=np.int32)),
        pa.array(counts),
        pa.array(
            np.array(np.broadcast_to(_load(arguments["hashes"]), counts.shape))
        ),  # one for all of a nameless query
        pa.array(add_up(arguments["selected"])),
        pa.array(add_up(arguments["contained"])),
    ]
    rows = write_parquet(path, pa.Table.from_arrays(columns, schema=QUERY_COUNTS), QUERY_COUNTS)
    return {"rows": rows}
