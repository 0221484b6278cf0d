"""What a subset left out, and why: rows of `rejections`, and a line of the ledger whose counts add up.

samples of the source, which of them are chosen --each other one: the first thing that it fails-->
    OUT/work/subset/all.rejections.parquet, OUT/ledger.json
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa

from pipeline.catalog.catalog import quote_name, sql_errors
from pipeline.engine import Done
from pipeline.engine.record import write_manifest
from pipeline.records.ledger import Ledger, totals
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.outcome import Outcome, reject
from pipeline.sets.condition import Clause, clauses_of
from pipeline.sets.subset_config import SubsetConfig
from pipeline.storage.atomic import write_json
from pipeline.storage.duck import quote_text
from pipeline.storage.place import Place
from pipeline.storage.written import written

__all__ = ["write_ledger"]

_STAGE = "subset"
_CHOSEN = quote_name("chosen for the subset")
_BATCH_ROWS = 65_536
_SHOWN = 2
"""Columns whose values a detail has."""


def write_ledger(
    database: duckdb.DuckDBPyConnection, config: SubsetConfig, ledger: LedgerConfig, chosen: Path, root: Place
) -> None:
    """Enter every sample of the view `samples` that is not among the uids of `chosen`.

    Raises SqlError where the condition fails on a row that it did not fail on before.
    """
    directory = root / "work" / _STAGE
    name = "all.rejections.parquet"
    with written(directory / name) as path, sql_errors("--where"):
        book = Ledger(path, ledger)
        for batch in database.sql(_query(database, config, chosen)).to_arrow_reader(_BATCH_ROWS):
            book.add(_STAGE, "pair", _outcome(batch))
        lines = book.close()
    write_manifest(directory, [Done(partition="all", key="", outputs={name: ""}, info={"lines": lines})])
    write_json(root / "ledger.json", {"lines": [vars(line) for line in totals([{"lines": lines}])]})


def _outcome(batch: pa.RecordBatch) -> Outcome:
    reasons, details = (batch.column(name).cast(pa.string()) for name in ("reason", "detail"))
    return reject(batch, stage=_STAGE, reasons=reasons, details=details)


def _query(database: duckdb.DuckDBPyConnection, config: SubsetConfig, chosen: Path) -> str:
    """SQL: where each sample was found, its uid, and reason and detail of those that are not chosen."""
    clauses = [] if config.where is None else clauses_of(database, config.where)
    there = {name.lower(): name for name, *_ in database.execute("DESCRIBE samples").fetchall()}
    reasons = [f"WHEN {_CHOSEN} THEN NULL"]
    details = list(reasons)
    for clause in clauses:
        # In the order in which they stand: a later part may only make sense where those before it hold.
        reasons.append(f"WHEN ({clause.sql}) IS NOT TRUE THEN 'condition'")
        details.append(f"WHEN ({clause.sql}) IS NOT TRUE THEN {_detail(clause, there)}")
    if config.uids is not None:
        for each, told in ((reasons, "'not_listed'"), (details, "NULL")):
            each.append(f"WHEN samples.uid NOT IN (SELECT uid FROM listed) THEN {told}")
    rest = "query_limit" if config.limit_per_query is not None else "condition"
    chosen_uids = f"SELECT uid FROM read_parquet({quote_text(chosen)})"
    return f"""
        SELECT source, record, link, uid, CASE {" ".join(reasons)} ELSE '{rest}' END AS reason,
               CASE {" ".join(details)} ELSE NULL END AS detail
        FROM (SELECT *, uid IN ({chosen_uids}) AS {_CHOSEN} FROM samples) AS samples
        ORDER BY shard, tar_offset"""


def _detail(clause: Clause, there: dict[str, str]) -> str:
    """SQL of a text: the clause, and the values of the columns that it names."""
    shown = [quote_name(there[name.lower()]) for name in clause.columns if name.lower() in there][:_SHOWN]
    values = [f"{quote_text(name.strip(chr(34)) + ' ')} || {_value(name)}" for name in shown]
    return " || ', ' || ".join([quote_text(clause.sql), *values]) if values else quote_text(clause.sql)


def _value(name: str) -> str:
    return f"coalesce(CAST({name} AS VARCHAR), 'null')"
