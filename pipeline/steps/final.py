"""final: the balance of what was really fetched, a pure function of the plan and of which pairs survived.

    FETCHED (all staging shards) --final_threshold--> thresholds among each query's surviving planned edges
    FETCHED + thresholds --final_balance--> FETCHED, survivors only, `selected_by` final --final_counts--> FINAL_COUNTS

Each query takes its t smallest planned edges whose pair survived (`stages/balance`). Without a reserve no
query has more than t survivors, and nothing is cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.load import from_mapping, to_mapping
from pipeline.checked import Vouched, load_vector, read_batches, read_table
from pipeline.engine import Done, Task
from pipeline.ledger import Ledger, LedgerConfig
from pipeline.schema import FETCHED, FINAL_COUNTS, QUERY_COUNTS
from pipeline.stages.balance import BalanceConfig, mode_of
from pipeline.stages.balance.edges import gather_from
from pipeline.stages.balance.thresholds import solve
from pipeline.steps.select import count_ids
from pipeline.steps.step import Step, key_of
from pipeline.steps.thresholds import Place, balance_arguments, file_of, open_balance, save_thresholds
from pipeline.storage import save_vector, write_parquet

__all__ = ["VERSION", "plan_balance", "plan_counts", "plan_threshold"]

VERSION = "final-1"
_BATCH_ROWS = 65_536
_EDGE_COLUMNS = ["uid", "selected_by", "status"]


def plan_threshold(
    fetched: Sequence[Done],
    directory: Path,
    limit: Place,
    planned: Place,
    queries: Place,
    config: BalanceConfig,
    seed: int,
) -> Step:
    """One task over three columns of every staging shard; `planned` are the plan's thresholds."""
    task = Task(
        partition="all",
        work=_threshold,
        arguments={
            "fetched": [record.file(directory, "fetched") for record in fetched],
            "limit": limit[0].info["t"],
            "planned_hashes": file_of(planned, "hashes.npy"),
            "query_hashes": file_of(queries, "query_hashes.npy"),
            "mode": config.mode,
            "seed": seed,
        },
        outputs=("all.hashes.npy", "all.uids.npy", "all.survived.npy"),
        key=key_of(VERSION, [*fetched, limit[0], planned[0], queries[0]], limit[0].info["t"], config, seed),
    )
    return Step(name="final_threshold", title="find final thresholds", tasks=[task])


def _survivors(files: Sequence[Vouched], columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    """Batches of the rows whose picture is there."""
    for file in files:
        for batch in read_batches(file, _BATCH_ROWS, columns):
            yield batch.filter(pc.equal(batch.column("status"), "success"))


def _threshold(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    mode, limit = mode_of(arguments["mode"]), int(arguments["limit"])
    hashes = np.array(load_vector(arguments["query_hashes"]))
    reach = np.array(load_vector(arguments["planned_hashes"]))
    survived = np.zeros(len(hashes), np.int64)
    rows = 0
    for batch in _survivors(arguments["fetched"], _EDGE_COLUMNS):
        rows += batch.num_rows
        survived += count_ids(pa.chunked_array([batch.column("selected_by")]), len(hashes))
    counts = mode.counts(survived, rows)
    gather = gather_from(
        lambda: _survivors(arguments["fetched"], _EDGE_COLUMNS),
        mode,
        seed=arguments["seed"],
        query_hashes=hashes,
        column="selected_by",
    )
    thresholds, again = solve(gather, counts, limit, mode, reach=reach)
    save_thresholds(thresholds, outputs)
    save_vector(outputs["all.survived.npy"], survived)
    return {"rows": rows, "cut_queries": int((counts > limit).sum()), "gathered_again": again}


def plan_balance(
    fetched: Sequence[Done],
    directory: Path,
    thresholds: Place,
    queries: Place,
    config: BalanceConfig,
    seed: int,
    ledger: LedgerConfig,
) -> Step:
    """One task per staging shard."""
    tasks = []
    for record in fetched:
        name = record.partition
        arguments = {
            "fetched": record.file(directory, "fetched"),
            "ledger": to_mapping(ledger),
            **balance_arguments(thresholds, queries, config.mode, seed),
        }
        outputs = (f"{name}.fetched.parquet", f"{name}.rejections.parquet")
        key = key_of(VERSION, [record, thresholds[0], queries[0]], config.mode, seed, ledger)
        tasks.append(Task(partition=name, work=_balance, arguments=arguments, outputs=outputs, key=key))
    return Step(name="final_balance", title="balance what was fetched", tasks=tasks)


def _balance(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    fetched_path, rejections_path = outputs.values()
    select = open_balance(arguments, column="selected_by", stage="final_balance", reason="reserve_not_needed")
    ledger = Ledger(rejections_path, from_mapping(LedgerConfig, arguments["ledger"]))

    def kept() -> Iterator[pa.RecordBatch]:
        for batch in _survivors([arguments["fetched"]], None):
            yield ledger.add("final_balance", "pair", select(batch.cast(FETCHED))).cast(FETCHED)

    rows = write_parquet(fetched_path, kept(), FETCHED)
    return {"rows": rows, "success": rows, "lines": ledger.close()}


def plan_counts(
    final: Sequence[Done],
    directory: Path,
    thresholds: Place,
    limit: Place,
    query_counts: Place,
    config: BalanceConfig,
) -> Step:
    """One task: FINAL_COUNTS."""
    task = Task(
        partition="all",
        work=_counts,
        arguments={
            "final": [record.file(directory, "fetched") for record in final],
            "survived": file_of(thresholds, "survived.npy"),
            "query_counts": file_of(query_counts, "query_counts"),
            "limit": limit[0].info["t"],
            "mode": config.mode,
        },
        outputs=("all.final_counts.parquet",),
        key=key_of(VERSION, [*final, thresholds[0], query_counts[0]], limit[0].info["t"], config.mode),
    )
    return Step(name="final_counts", title="count what each query got", tasks=[task])


def _counts(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    (path,) = outputs.values()
    planned = read_table(arguments["query_counts"]).cast(QUERY_COUNTS)["selected"].to_numpy()
    selected, contained = np.zeros(len(planned), np.int64), np.zeros(len(planned), np.int64)
    for batch in _survivors(arguments["final"], ["selected_by", "query_ids", "status"]):
        selected += count_ids(pa.chunked_array([batch.column("selected_by")]), len(planned))
        contained += count_ids(pa.chunked_array([batch.column("query_ids")]), len(planned))
    short = np.maximum(np.minimum(planned, int(arguments["limit"])) - selected, 0)
    if mode_of(arguments["mode"]).whole_set:
        short[:] = 0  # no query has a t of its own
    ids = np.arange(len(planned), dtype=np.int32)
    columns = [ids, planned, np.array(load_vector(arguments["survived"])), selected, contained, short]
    table = pa.Table.from_arrays([pa.array(column) for column in columns], schema=FINAL_COUNTS)
    write_parquet(path, table, FINAL_COUNTS)
    return {"rows": len(ids), "short": int(short.sum()), "short_queries": int((short > 0).sum())}
