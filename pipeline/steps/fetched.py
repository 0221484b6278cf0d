"""fetched: a staging shard's plan joined with the facts about its URLs, old and new -> FETCHED, and the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from configs.load import from_mapping, to_mapping
from pipeline.checked import Vouched, read_table
from pipeline.engine import Done, Task
from pipeline.ledger import Ledger, LedgerConfig
from pipeline.outcome import Outcome, rejections_from_rows
from pipeline.schema import FETCHED, SELECTED
from pipeline.steps.facts import STORED, read_facts
from pipeline.steps.step import Step, key_of
from pipeline.storage import write_parquet

__all__ = ["VERSION", "plan"]

VERSION = "fetched-3"


def plan(
    scheduled: tuple[Sequence[Done], Path],
    requested: tuple[Sequence[Done], Path],
    fetched: tuple[Sequence[Done], Path],
    ledger: LedgerConfig,
) -> Step:
    """One task per staging shard."""
    new = {record.partition.rpartition("-")[0]: record for record in fetched[0]}
    tasks = []
    for shard, request in zip(scheduled[0], requested[0], strict=True):
        name = shard.partition
        own = new.get(name)
        arguments = {
            "selected": shard.file(scheduled[1], "selected"),
            "known": request.file(requested[1], "known"),
            "missing": request.file(requested[1], "missing"),
            "store": str(fetched[1]),
            "files": request.info["digests"],
            "orders": [shard.info["first"], shard.info["last"]],
            "new": None if own is None else own.file(fetched[1], "facts"),
            "ledger": to_mapping(ledger),
        }
        inputs = [shard, request, *([] if own is None else [own])]
        outputs = (f"{name}.fetched.parquet", f"{name}.rejections.parquet")
        key = key_of(VERSION, inputs, ledger)
        tasks.append(Task(partition=name, work=_work, arguments=arguments, outputs=outputs, key=key))
    return Step(name="fetched", title="join plan and facts", tasks=tasks)


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    fetched_path, rejections_path = outputs.values()
    selected = read_table(arguments["selected"]).cast(SELECTED)
    facts = _facts(arguments)
    rows = [{**facts[row["url_id"]], **row} for row in selected.to_pylist()]
    stages = [row.pop("stage") for row in rows]
    details = [row.pop("detail") for row in rows]
    write_parquet(fetched_path, pa.Table.from_pylist(rows, schema=FETCHED), FETCHED)
    ledger = Ledger(rejections_path, from_mapping(LedgerConfig, arguments["ledger"]))
    _enter(ledger, rows, stages, details)
    success = sum(1 for row in rows if row["status"] == "success")
    asked = read_table(arguments["missing"], ["url_id", "retry"]).to_pylist()
    retried = [row["url_id"] for row in asked if row["retry"]]
    healed = sum(1 for url_id in retried if facts[url_id]["status"] == "success")
    counts = {"rows": len(rows), "success": success, "retried": len(retried), "healed": healed}
    return {**counts, "lines": ledger.close()}


def _facts(arguments: Mapping[str, Any]) -> dict[bytes, dict[str, Any]]:
    """url_id -> its facts and the tar that they point into, for every URL of the plan."""
    known = read_table(arguments["known"])
    facts: dict[bytes, dict[str, Any]] = {}
    wanted: dict[str, set[bytes]] = {}
    for row in known.to_pylist():
        if row["facts"] is None:
            facts[row["url_id"]] = _blocked(row["blocked"])
        else:
            wanted.setdefault(row["facts"], set()).add(row["url_id"])
    tables = []
    for name, ids in wanted.items():
        file = Vouched(str(Path(arguments["store"]) / name), arguments["files"][name])
        table = read_facts(file, arguments["orders"])
        tables.append(table.filter(pc.is_in(table["url_id"], pa.array(ids, pa.binary(16)))))
    if arguments["new"] is not None:
        tables.append(read_facts(arguments["new"], arguments["orders"]))  # all of it
    for table in tables:
        for row in table.to_pylist():
            facts[row["url_id"]] = row
    return facts


def _blocked(entry: str) -> dict[str, Any]:
    """The facts about a URL that the block list names, whatever came of it before."""
    about = {"stage": "fetch", "detail": entry, "status": "failed_to_download", "reason": "block_list"}
    return {**dict.fromkeys(STORED.names), **about}


def _enter(
    ledger: Ledger, rows: Sequence[Mapping[str, Any]], stages: Sequence[str | None], details: Sequence[str | None]
) -> None:
    """Both stages' lines: fetch sees every pair, check_image those whose body came."""
    for stage, reached in (
        ("fetch", rows),
        ("check_image", [r for r, s in zip(rows, stages, strict=True) if s != "fetch"]),
    ):
        rejected = [
            {name: row[name] for name in ("source", "record", "link", "uid", "reason")} | {"stage": s, "detail": d}
            for row, s, d in zip(rows, stages, details, strict=True)
            if s == stage
        ]
        lost = {row["uid"] for row in rejected}
        kept = pa.RecordBatch.from_pydict(
            {"uid": pa.array([r["uid"] for r in reached if r["uid"] not in lost], pa.binary(16))}
        )
        ledger.add(stage, "pair", Outcome(kept=kept, rejected=rejections_from_rows(rejected), num_in=len(reached)))
