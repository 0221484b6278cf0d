"""fetched: a staging shard's plan joined with the facts about its URLs, old and new -> FETCHED, and the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine import Data, Info, Task, apart
from pipeline.records.earlier import as_now
from pipeline.records.ledger import Ledger
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.outcome import Outcome, rejections_from_rows
from pipeline.records.schema import FETCHED, SELECTED
from pipeline.steps.fetch.facts import STORE, STORED, Answers, read_facts, stored_file
from pipeline.steps.fetch.requests import Requests
from pipeline.steps.judges.survivors import Arrived
from pipeline.steps.schedule import Selected
from pipeline.steps.step import Run, step
from pipeline.storage.checked import read_table
from pipeline.storage.location import Location
from pipeline.storage.parquet import write_parquet
from pipeline.storage.place import place_of

__all__ = ["JoinFacts", "join_facts"]


@dataclass(frozen=True, kw_only=True)
class JoinFacts(Task[Arrived]):
    """Join a staging shard's plan with the facts about its URLs."""

    selected: Location
    known: Location
    missing: Location
    new: Answers | None
    """What came of the missing ones; None where none was missing."""
    new_name: str
    """Of the fetch task, since the pairs name its tar."""
    ledger: LedgerConfig
    known_facts: Mapping[str, str] = apart()
    """Name in the store -> digest, of the facts that `known` names."""
    store: str = apart()
    """The directory of the store of facts."""
    orders: tuple[int, int] = apart()
    """The shard's first and last `order`."""

    version = 5

    def work(self, out: Arrived) -> Info:
        selected = as_now(read_table(self.selected), SELECTED)
        facts = self._facts()
        rows = [{**facts[row["url_id"]], **row} for row in selected.to_pylist()]
        stages = [row.pop("stage") for row in rows]
        details = [row.pop("detail") for row in rows]
        for row in rows:
            said = row.pop("statements")
            row["consent"] = None if said is None else "\n".join(said)
        write_parquet(out.fetched.local, pa.Table.from_pylist(rows, schema=FETCHED), FETCHED)
        ledger = Ledger(out.rejections.local, self.ledger)
        _enter(ledger, rows, stages, details)
        success = sum(1 for row in rows if row["status"] == "success")
        asked = read_table(self.missing, ["url_id", "retry"]).to_pylist()
        retried = [row["url_id"] for row in asked if row["retry"]]
        healed = sum(1 for url_id in retried if facts[url_id]["status"] == "success")
        counts = {"rows": len(rows), "success": success, "retried": len(retried), "healed": healed}
        return {**counts, "lines": ledger.close()}

    def _facts(self) -> dict[bytes, dict[str, Any]]:
        """url_id -> its facts and the tar that they point into, for every URL of the plan."""
        known = read_table(self.known)
        facts: dict[bytes, dict[str, Any]] = {}
        wanted: dict[str, set[bytes]] = {}
        for row in known.to_pylist():
            if row["facts"] is None:
                facts[row["url_id"]] = _refused(row["reason"], row["detail"])
            else:
                wanted.setdefault(row["facts"], set()).add(row["url_id"])
        tables = []
        for name, ids in wanted.items():
            file = stored_file(place_of(self.store), name, self.known_facts[name])
            table = read_facts(file, self.orders)
            tables.append(table.filter(pc.is_in(table["url_id"], pa.array(ids, pa.binary(16)))))
        if self.new is not None:
            tables.append(read_facts(self.new.facts, self.orders))  # all of it
        for table in tables:
            for row in table.to_pylist():
                facts[row["url_id"]] = row
        return facts


@step(
    "fetched",
    JoinFacts,
    title="join plan and facts",
    per="staging shard",
    stages=["fetch", "check_image"],
)
def join_facts(
    run: Run, planned: Data[Selected], requests: Data[Requests], answers: Data[Answers]
) -> Iterator[JoinFacts]:
    """One task per staging shard."""
    store = run.directory(STORE)
    new = {part.name.rpartition("-")[0]: part for part in answers.parts}
    for shard, request in zip(planned.parts, requests.parts, strict=True):
        own = new.get(shard.name)
        yield JoinFacts(
            partition=shard.name,
            selected=shard.files.selected,
            known=request.files.known,
            missing=request.files.missing,
            new=None if own is None else own.files,
            new_name="" if own is None else own.name,
            ledger=run.ledger,
            known_facts=request.info["digests"],
            store=str(store),
            orders=(shard.info["first"], shard.info["last"]),
        )


def _refused(reason: str, detail: str) -> dict[str, Any]:
    """The facts about a URL that the block list names, or whose owner forbids its use, whatever came of it before."""
    about = {"stage": "fetch", "detail": detail, "status": "failed_to_download", "reason": reason}
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
