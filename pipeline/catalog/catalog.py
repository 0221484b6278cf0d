"""SQL over whatever a run has produced so far: DuckDB views on the Parquet files of finished tasks.

    candidates, matched, deduplicated, permitted, selected, fetched   one row per link or pair, step by step
    samples                                                       one row per published sample, with joined columns
    published                                                     the same without joined columns
    rejections                                                    one row per rejection
    queries, query_counts, final_counts, hosts, heavy_hosts       one row per query, per host
    robots, robots_live, robots_coverage                          one row per robots.txt, and what they could judge
    shards, runs, ledger, reasons                                 one row per shard, run, stage, reason

Views read done-records and manifests, never globs, so that no unfinished or stale file is seen. A view
without files yet is empty, with its columns; one that the config does not ask for says so. Columns that
`pipeline join` added lie in OUT/joined.

A user's own SQL sees the data set and nothing else of the machine: `confine` before it runs, `check_query` on it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.catalog.summaries import SUMMARIES, fresh_summary
from pipeline.engine import Data, outputs_of
from pipeline.errors import OutputError, PipelineError
from pipeline.pages import page_of, views_of, whole_page
from pipeline.records.removals import tombstones_of
from pipeline.records.schema import REJECTIONS, SAMPLES
from pipeline.steps.step import Page
from pipeline.storage.atomic import read_json
from pipeline.storage.copies import scratch_files
from pipeline.storage.duck import open_duckdb, quote_text, read_parquet_sql, use_buckets
from pipeline.storage.location import Location
from pipeline.storage.output import check_output
from pipeline.storage.place import Place, files_in

__all__ = [
    "NAMED_QUERIES",
    "SqlError",
    "check_condition",
    "check_query",
    "confine",
    "joined_files",
    "named_query",
    "open_catalog",
    "quote_name",
    "sql_errors",
    "view_names",
]


class SqlError(PipelineError):
    """The user's SQL is wrong, or names a query that does not exist."""


_OTHER_VIEWS = ("published", "samples", "rejections", *SUMMARIES, "shards", "runs", "ledger", "reasons")

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

_LOOKED_AT = 16
_WORD = re.compile(r"\w+")
_NAMELESS = re.compile(r"\b(?:duckdb_\w+|information_schema|pragma\w*|show|query(?:_table)?\s*\()", re.IGNORECASE)
"""In SQL that may ask for views without their names in it."""
_BENEATH = {"samples": ("published",)} | {name: (summary.view,) for name, summary in SUMMARIES.items()}
"""View -> those that it is made of."""
_RAISED = re.compile(r"^[\w.]*(?:Error|Exception): (.*)$", re.MULTILINE)
_EXPLAIN = re.compile(r"\A\s*EXPLAIN(\s+ANALYZE)?\s", re.IGNORECASE)

_SQL_DIRECTORY = Path(__file__).parent / "sql"
NAMED_QUERIES = tuple(sorted(path.stem for path in _SQL_DIRECTORY.glob("*.sql")))


def named_query(name: str) -> str:
    """The SQL of a named query. Raises SqlError with the names that there are."""
    if name not in NAMED_QUERIES:
        raise SqlError(f"no named query {name!r}; there are {', '.join(NAMED_QUERIES)}")
    return (_SQL_DIRECTORY / f"{name}.sql").read_text(encoding="utf-8")


def view_names() -> tuple[str, ...]:
    """Every view of a catalog."""
    return (*views_of(whole_page()), *_OTHER_VIEWS)


@contextmanager
def sql_errors(what: str = "SQL") -> Iterator[None]:
    """Turn DuckDB's errors into SqlError, one line that begins with `what`."""
    try:
        yield
    except duckdb.PermissionException as error:
        hint = "SQL sees the data set alone, unless --allow-files is given"
        raise SqlError(f"{what}: {_told(error)}; {hint}") from error
    except duckdb.Error as error:
        raise SqlError(f"{what}: {_told(error)}") from error


def _told(error: duckdb.Error) -> str:
    """Its message in one line; of what our client of a bucket raised in a query, which DuckDB tells with a traceback,
    that one's first line."""
    _, traceback, raised = str(error).partition("Traceback (most recent call last)")
    found = _RAISED.search(raised) if traceback else None
    return " ".join((found[1] if found else str(error)).split())


@contextmanager
def open_catalog(output: Place, query: str | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory DuckDB with the views of `view_names` over the data set in `output`, those that `query` names if it
    is given: each costs a look at its files.

    What does not fit in memory goes to a directory in `output` (of a bucket, on this machine) that is removed
    afterwards. Raises OutputError
    where `output` is not one of ours, or its files cannot be read.
    """
    check_output(output)
    with _spill_for(output) as spill, open_duckdb(spill) as database:
        use_buckets(database, [output])
        try:
            _define_views(output, database, _views_in(query))
        except (duckdb.Error, OSError, pa.ArrowInvalid) as error:
            raise OutputError(
                f"{output}: {' '.join(str(error).split())}; look at `python -m pipeline verify {output}`"
            ) from error
        yield database


def _views_in(query: str | None) -> Set[str]:
    """The views that a query may need."""
    every = frozenset(view_names())
    named = frozenset() if query is None or _NAMELESS.search(query) else every & set(_WORD.findall(query.lower()))
    if not named:
        return every
    return named.union(*(_BENEATH.get(view, ()) for view in named))


@contextmanager
def _spill_for(output: Place) -> Iterator[Path]:
    if isinstance(output, Path):
        yield output / f"catalog.tmp-{os.getpid()}"
    else:
        with scratch_files() as scratch:
            yield scratch / "spill"


def check_condition(database: duckdb.DuckDBPyConnection, where: str, query: str) -> None:
    """Raise SqlError unless `where` is one condition; `query` has it in brackets."""
    # Bare and in brackets it must be one statement: what passes both neither closes the bracket nor goes on.
    for statement in (f"SELECT 1 WHERE {where}", query):
        if len(database.extract_statements(statement)) != 1:
            raise SqlError("--where: give one condition, without a semicolon")


def confine(database: duckdb.DuckDBPyConnection, directories: Sequence[Place], files: Sequence[Place] = ()) -> None:
    """Leave `database` these directories and files, for good: no other file, network, extension, setting or variable.

    What is allowed comes first, since it cannot be changed once access is off; off alone would close the catalog's own
    views (DuckDB 2.0, "Securing DuckDB"). Links are followed before they are judged. What is allowed could be written
    as well: that, `check_query` prevents.
    """
    for name, paths in (("allowed_directories", directories), ("allowed_paths", files)):
        database.execute(f"SET {name} = [{', '.join(quote_text(path.resolve()) for path in paths)}]")
    for setting in (
        *("autoinstall_known_extensions", "autoload_known_extensions", "allow_community_extensions"),
        "python_enable_replacements",  # else a name in SQL may mean a variable of this process
        "enable_external_access",
    ):
        database.execute(f"SET {setting} = false")
    database.execute("SET lock_configuration = true")


def check_query(database: duckdb.DuckDBPyConnection, query: str) -> None:
    """Raise SqlError unless `query` is one statement that only reads."""
    with sql_errors():
        statements = database.extract_statements(_EXPLAIN.sub("", query))
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise SqlError("SQL: give one SELECT, since nothing else only reads; --allow-files runs any statement")
        # DuckDB 2.0 lets WITH hold a COPY or an INSERT, but at the top alone: in brackets it is refused.
        database.execute(f"EXPLAIN SELECT * FROM (\n{statements[0].query.rstrip().rstrip(';')}\n)")


_IN_PLACE_OF = {"judge_pairs": ("filters", "decontaminate")}
"""Steps that an earlier version had where ours is one: what they wrote stands until a run makes it anew."""


def _rejections(page: Page) -> Iterator[Location]:
    for step in page.steps:
        if "rejections" not in outputs_of(step.data.out):
            continue
        yield from step.data.present("rejections")
        if step.name in _IN_PLACE_OF and not step.data.directory.exists():
            for name in _IN_PLACE_OF[step.name]:
                earlier = Data(name, step.data.out)
                earlier.directory = page.run.directory(name)
                yield from earlier.present("rejections")
    if "extract" not in page:
        yield from _earlier_extract(page)
    for name in ("subset", "takedown"):  # what was left out of the set that it was taken from; what was removed since
        afterwards = Data(name, page["texts"].data.out)
        afterwards.directory = page.run.directory(name)
        yield from afterwards.present("rejections")


def _earlier_extract(page: Page) -> Iterator[Location]:
    """Rejections of a step of its own, until the one that reads the sources and judges their links has begun anew."""
    texts = page["texts"].data
    earlier = Data("extract", texts.out)
    earlier.directory = page.run.directory("extract")
    if earlier.directory.exists():
        lines = (line for said in texts.said() for line in said.get("lines", ()))
        if not any(line["stage"] == "extract" for line in lines):
            yield from earlier.present("rejections")


def _define_views(output: Place, database: duckdb.DuckDBPyConnection, wanted: Set[str]) -> None:
    page = page_of(output)
    files = views_of(page)
    for name, view in views_of(whole_page(output)).items():
        if name not in wanted:
            continue
        located = (files.get(name) or view).data.present(view.field)
        if name in files or located:
            _define(database, name, located, view.rows)
        else:
            _define_absent(database, name, view.rows)
    if "rejections" in wanted:
        _define(database, "rejections", list(_rejections(page)), REJECTIONS)
    for name, summary in SUMMARIES.items():
        if name in wanted:
            made = fresh_summary(page, name)
            rows = f"SELECT * FROM {read_parquet_sql([made])}" if made else summary.query.replace("$ROWS", summary.view)
            database.execute(f"CREATE VIEW {name} AS {rows}")
    if wanted & {"published", "shards"}:
        shards = (read_json(output / "shards" / "manifest.json") or {"shards": []})["shards"]
        _define(database, "published", [Location(str(output / "shards" / s["parquet"])) for s in shards], SAMPLES)
        _hide(database, tombstones_of(output / "shards"))
        _table(database, "shards", shards, _SHARDS)
    if "samples" in wanted:
        _define_samples(output, database)
    if "runs" in wanted:
        _table(database, "runs", _runs(output), _RUNS)
    if wanted & {"ledger", "reasons"}:
        lines = (read_json(output / "ledger.json") or {"lines": []})["lines"]
        _table(database, "ledger", list(_ledger_rows(lines)), _LEDGER)
        _table(database, "reasons", list(_reason_rows(lines)), _REASONS)


def _hide(database: duckdb.DuckDBPyConnection, removed: Set[bytes]) -> None:
    """Take these uids, whose rows a bucket still has, out of `published`."""
    if removed:
        database.execute("CREATE TABLE tombstones AS SELECT unnest(?::BLOB[]) AS uid", [sorted(removed)])
        database.execute("ALTER VIEW published RENAME TO published_before_removals")
        database.execute(
            "CREATE VIEW published AS SELECT * FROM published_before_removals ANTI JOIN tombstones USING (uid)"
        )


def _ledger_rows(lines: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for position, line in enumerate(lines):
        yield {**line, "position": position, "rejected": sum(line["rejected"].values())}


def _reason_rows(lines: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for line in lines:
        for reason, count in line["rejected"].items():
            yield {"stage": line["stage"], "unit": line["unit"], "reason": reason, "count": count}


def joined_files(output: Place) -> dict[str, Place]:
    """Name -> Parquet of the columns that `pipeline join` added, by name."""
    return {path.stem: path for path in files_in(output / "joined", "*.parquet")}


def _define_samples(output: Place, database: duckdb.DuckDBPyConnection) -> None:
    """`samples`: the published rows with every joined table's columns, null where it has no row."""
    columns, tables = ["published.*"], ["published"]
    for name, path in joined_files(output).items():
        alias = quote_name(f"joined {name}")
        columns.append(f"{alias}.* EXCLUDE (uid)")
        tables.append(f"LEFT JOIN {read_parquet_sql([path])} AS {alias} ON published.uid = {alias}.uid")
    database.execute(f"CREATE VIEW samples AS SELECT {', '.join(columns)} FROM {' '.join(tables)}")


def _define(database: duckdb.DuckDBPyConnection, view: str, located: Sequence[Location], schema: pa.Schema) -> None:
    files = [file.place for file in located]
    if files:
        rows = read_parquet_sql(files, differ=_differ(database, files))
        there = database.sql(f"SELECT * FROM {rows}").columns
        kinds = database.from_arrow(_empty(schema)).types
        missing = "".join(  # columns that the version which wrote the files did not have
            f", CAST(NULL AS {kind}) AS {quote_name(field.name)}"
            for field, kind in zip(schema, kinds, strict=True)
            if field.name not in there
        )
        database.execute(f"CREATE VIEW {view} AS SELECT *{missing} FROM {rows}")
    else:
        _table(database, view, [], schema)


_ABSENT = {
    "candidates": "is not kept: matched and rejections say what became of each link; to keep the links too, run with "
    "--texts.keep_candidates true",
}


def _define_absent(database: duckdb.DuckDBPyConnection, view: str, schema: pa.Schema) -> None:
    """A view of what the config does not ask for: it has its columns, and who asks for rows is told why none are there.
    Nobody is to take them for zero."""
    told = quote_text(f"{view} {_ABSENT.get(view, 'is not asked for by the config')}")
    kinds = database.from_arrow(_empty(schema)).types
    columns = (
        f"CAST(error({told}) AS {kind}) AS {quote_name(name)}" for name, kind in zip(schema.names, kinds, strict=True)
    )
    database.execute(f"CREATE VIEW {view} AS SELECT {', '.join(columns)} FROM range(1) WHERE error({told}) IS NULL")


def _differ(database: duckdb.DuckDBPyConnection, files: Sequence[Place]) -> bool:
    """Whether some of the files have other columns than others: a later version of ours is just going through them.

    Of many, sixteen are looked at, the last among them: to open all would cost more than most questions.
    """
    looked_at = dict.fromkeys((*files[:: -(-len(files) // _LOOKED_AT)], files[-1]))
    listed = ", ".join(map(quote_text, looked_at))
    names = f"SELECT list(name ORDER BY name) AS names FROM parquet_schema([{listed}]) GROUP BY file_name"
    return len(database.execute(f"SELECT DISTINCT names FROM ({names})").fetchall()) > 1


def _table(database: duckdb.DuckDBPyConnection, name: str, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> None:
    database.register(f"{name}_rows", _empty(schema))
    database.execute(f"CREATE TABLE {name} AS SELECT * FROM {name}_rows")
    database.unregister(f"{name}_rows")
    if rows:
        columns = [[row.get(column) for row in rows] for column in schema.names]
        database.execute(f"INSERT INTO {name} SELECT {', '.join(['unnest(?)'] * len(columns))}", columns)


def _empty(schema: pa.Schema) -> pa.Table:
    """No rows. What makes Arrow's arrays of Python's values imports pandas, where that is installed, for a quarter of a
    second; this and DuckDB do not."""
    return pa.Table.from_batches([], schema)


def _runs(output: Place) -> list[dict[str, Any]]:
    """The run log; a line that a full disk or a kill left unfinished is passed over."""
    rows = []
    try:
        lines = (output / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append({**row, "steps": json.dumps(row.get("steps"))})
    return rows


def quote_name(name: str) -> str:
    """An SQL identifier, whatever its characters."""
    return '"' + name.replace('"', '""') + '"'
