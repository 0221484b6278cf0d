"""What a subset left out, and why: rows of `rejections`, and a line of the ledger whose counts add up.

samples of the source, which of them are chosen --each other one: the first thing that it fails-->
    OUT/work/subset/all.rejections.parquet, OUT/ledger.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog.catalog import quote_name, sql_errors
from pipeline.engine import Done
from pipeline.engine.record import write_manifest
from pipeline.records.ledger import Ledger, totals
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.outcome import Outcome, reject
from pipeline.sets.captions import detail_of
from pipeline.sets.condition import Clause, clauses_of
from pipeline.sets.subset_config import SubsetConfig
from pipeline.storage.atomic import write_json
from pipeline.storage.duck import quote_text
from pipeline.storage.place import Place
from pipeline.storage.written import written

__all__ = ["write_ledger"]

_STAGE = "subset"
_CHOSEN, _FAILED = quote_name("chosen for the subset"), quote_name("failed for the subset")
_BATCH_ROWS = 65_536
_SHOWN = 2
"""Columns whose values a detail has."""


def write_ledger(
    database: duckdb.DuckDBPyConnection, config: SubsetConfig, ledger: LedgerConfig, chosen: Path, root: Place
) -> dict[str, int]:
    """Enter every sample of the view `samples` that is not among the uids of `chosen`.

    Returns how many went for what: a part of the condition, or another reason. Raises SqlError where the condition
    fails on a row that it did not fail on before.
    """
    directory = root / "work" / _STAGE
    name = "all.rejections.parquet"
    fails = _fails(database, config)
    left_out = [0] * len(fails)
    with written(directory / name) as path, sql_errors("--where"):
        book = Ledger(path, ledger)
        for batch in database.sql(_query(fails, chosen)).to_arrow_reader(_BATCH_ROWS):
            book.add(_STAGE, "pair", _outcome(batch, fails))
            for counted in pc.value_counts(batch.column("failed").drop_null()).to_pylist():
                left_out[counted["values"]] += counted["counts"]
        lines = book.close()
    write_manifest(directory, [Done(partition="all", key="", outputs={name: ""}, info={"lines": lines})])
    write_json(root / "ledger.json", {"lines": [vars(line) for line in totals([{"lines": lines}])]})
    return {fail.told: count for fail, count in zip(fails, left_out, strict=True) if count}


@dataclass(frozen=True, kw_only=True)
class _Fail:
    """One thing for which a sample is left out."""

    reason: str
    told: str
    """For people."""
    when: str
    """SQL over `samples`."""
    detail: str = "NULL"
    """SQL of a text."""


def _fails(database: duckdb.DuckDBPyConnection, config: SubsetConfig) -> list[_Fail]:
    """In the order in which they are looked at; the last is what is left where none of the others holds."""
    kinds = {name.lower(): (name, kind) for name, kind, *_ in database.execute("DESCRIBE samples").fetchall()}
    fails = []
    for clause in [] if config.where is None else clauses_of(database, config.where):
        # In the order in which they stand: a later part may only make sense where those before it hold.
        when, detail = f"({clause.sql}) IS NOT TRUE", _detail(clause, kinds)
        fails.append(_Fail(reason="condition", told=clause.sql, when=when, detail=detail))
    if config.uids is not None:
        when = "samples.uid NOT IN (SELECT uid FROM listed)"
        fails.append(_Fail(reason="not_listed", told="not in the list of uids", when=when))
    if config.captions is not None:
        when = "samples.caption_source IS NULL"
        told = "neither its own text nor a caption written for it fits"
        fails.append(_Fail(reason="no_caption", told=told, when=when, detail=detail_of(config.captions)))
    if config.limit_per_query is not None:
        fails.append(_Fail(reason="query_limit", told="beyond the limit of each of its queries", when="true"))
    else:  # such as random(), which says something else each time
        fails.append(_Fail(reason="condition", told="the condition, when it was asked first", when="true"))
    return fails


def _query(fails: Sequence[_Fail], chosen: Path) -> str:
    """SQL: where each sample was found, its uid, which of `fails` it was left out for (null if it was not), and how."""
    chosen_uids = f"SELECT uid FROM read_parquet({quote_text(chosen)})"
    whens = " ".join(f"WHEN {fail.when} THEN {number}" for number, fail in enumerate(fails))
    details = " ".join(f"WHEN {number} THEN {fail.detail}" for number, fail in enumerate(fails))
    return f"""
        SELECT source, record, link, uid, {_FAILED}::INTEGER AS failed, CASE {_FAILED} {details} END AS detail
        FROM (SELECT *, CASE WHEN {_CHOSEN} THEN NULL {whens} END AS {_FAILED}
              FROM (SELECT *, uid IN ({chosen_uids}) AS {_CHOSEN} FROM samples) AS samples)
        ORDER BY shard, tar_offset"""


def _outcome(batch: pa.RecordBatch, fails: Sequence[_Fail]) -> Outcome:
    reasons = pa.array([fail.reason for fail in fails], pa.string()).take(batch.column("failed"))
    return reject(batch, stage=_STAGE, reasons=reasons, details=batch.column("detail").cast(pa.string()))


def _detail(clause: Clause, kinds: Mapping[str, tuple[str, str]]) -> str:
    """SQL of a text: the part of the condition, and the values of the columns that it names."""
    shown = [kinds[name.lower()] for name in clause.columns if name.lower() in kinds][:_SHOWN]
    values = [f"{quote_text(name + ' ')} || coalesce({_as_text(name, kind)}, 'null')" for name, kind in shown]
    return (
        " || ".join([quote_text(f"{clause.sql}: "), " || ', ' || ".join(values)]) if values else quote_text(clause.sql)
    )


def _as_text(name: str, kind: str) -> str:
    return f"lower(hex({quote_name(name)}))" if kind == "BLOB" else f"CAST({quote_name(name)} AS VARCHAR)"
