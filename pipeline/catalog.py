"""SQL over whatever a run has produced so far: DuckDB views on the Parquet files of finished tasks.

    candidates, matched, selected, fetched, samples, rejections   one row per link, pair or rejection
    queries, query_counts                                         one row per query
    shards, runs, ledger, reasons                                 one row per shard, run, stage, reason

Views read done-records and manifests, never globs, so that no unfinished or stale file is seen. A view
without files yet is empty, with its columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.errors import PipelineError
from pipeline.schema import (
    CANDIDATES,
    FETCHED,
    MATCHED,
    QUERIES,
    QUERY_COUNTS,
    REJECTIONS,
    SAMPLES,
    SELECTED,
)
from pipeline.storage import check_output, read_json

__all__ = ["NAMED_QUERIES", "VIEWS", "SqlError", "named_query", "open_catalog"]


class SqlError(PipelineError):
    """The user's SQL is wrong, or names a query that does not exist."""


_FILE_VIEWS: dict[str, tuple[str, str, pa.Schema]] = {
    "candidates": ("extract", ".candidates.parquet", CANDIDATES),
    "matched": ("texts", ".matched.parquet", MATCHED),
    "selected": ("schedule", ".selected.parquet", SELECTED),
    "fetched": ("fetch", ".fetched.parquet", FETCHED),
    "queries": ("queries", ".queries.parquet", QUERIES),
    "query_counts": ("query_counts", ".query_counts.parquet", QUERY_COUNTS),
}
VIEWS = (*_FILE_VIEWS, "samples", "rejections", "shards", "runs", "ledger", "reasons")

_SHARDS = pa.schema([("name", pa.string()), ("samples", pa.int64()), ("bytes", pa.int64()), ("sha256", pa.string())])
_RUNS = pa.schema(
    [
        *(("started", pa.string()), ("seconds", pa.float64()), ("status", pa.string()), ("config", pa.string())),
        *(("host", pa.string()), ("cpus", pa.int64()), ("python", pa.string()), ("steps", pa.string())),
    ]
)
_LEDGER = pa.schema(
    [
        *(("position", pa.int64()), ("stage", pa.string()), ("unit", pa.string())),
        *(("rows_in", pa.int64()), ("kept", pa.int64()), ("rejected", pa.int64())),
    ]
)
_REASONS = pa.schema([("stage", pa.string()), ("unit", pa.string()), ("reason", pa.string()), ("count", pa.int64())])

_SQL_DIRECTORY = Path(__file__).parent / "sql"
NAMED_QUERIES = tuple(sorted(path.stem for path in _SQL_DIRECTORY.glob("*.sql")))


def named_query(name: str) -> str:
    """The SQL of a named query. Raises SqlError with the names that there are."""
    if name not in NAMED_QUERIES:
        raise SqlError(f"no named query {name!r}; there are {', '.join(NAMED_QUERIES)}")
    return (_SQL_DIRECTORY / f"{name}.sql").read_text(encoding="utf-8")


def open_catalog(output: Path) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the views of VIEWS over the data set in `output`.

    Raises OutputError where `output` is not one of ours.
    """
    check_output(output)
    database = duckdb.connect()
    for view, (step, ending, schema) in _FILE_VIEWS.items():
        _define(database, view, _files(output / "work" / step, ending), schema)
    rejections = [path for step in sorted((output / "work").glob("*")) for path in _files(step, ".rejections.parquet")]
    _define(database, "rejections", rejections, REJECTIONS)
    manifest = read_json(output / "shards" / "manifest.json") or {"shards": []}
    _define(database, "samples", [output / "shards" / s["parquet"] for s in manifest["shards"]], SAMPLES)
    _table(database, "shards", manifest["shards"], _SHARDS)
    _table(database, "runs", _runs(output), _RUNS)
    lines = (read_json(output / "ledger.json") or {"lines": []})["lines"]
    _table(
        database,
        "ledger",
        [{**line, "position": i, "rejected": sum(line["rejected"].values())} for i, line in enumerate(lines)],
        _LEDGER,
    )
    reasons = [
        {"stage": line["stage"], "unit": line["unit"], "reason": reason, "count": count}
        for line in lines
        for reason, count in line["rejected"].items()
    ]
    _table(database, "reasons", reasons, _REASONS)
    return database


def _files(step: Path, ending: str) -> list[Path]:
    """Outputs of the step's finished tasks whose names end so, in task order."""
    manifest = read_json(step / "manifest.json")
    if manifest is not None:
        records = manifest["tasks"]
    else:  # the step is under way
        records = [read_json(path) for path in sorted((step / "done").glob("*.json"))]
    names = [name for record in records if record for name in record["outputs"] if name.endswith(ending)]
    return [step / name for name in names if (step / name).exists()]


def _define(database: duckdb.DuckDBPyConnection, view: str, files: Sequence[Path], schema: pa.Schema) -> None:
    if files:
        names = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files)
        database.execute(f"CREATE VIEW {view} AS SELECT * FROM read_parquet([{names}])")
    else:
        _table(database, view, [], schema)


def _table(database: duckdb.DuckDBPyConnection, name: str, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> None:
    content = pa.Table.from_pylist([{n: row.get(n) for n in schema.names} for row in rows], schema=schema)
    database.register(f"{name}_rows", content)
    database.execute(f"CREATE TABLE {name} AS SELECT * FROM {name}_rows")
    database.unregister(f"{name}_rows")


def _runs(output: Path) -> list[dict[str, Any]]:
    try:
        lines = (output / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    rows = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return [{**row, "steps": json.dumps(row.get("steps"))} for row in rows]
