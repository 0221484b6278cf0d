"""Add a user's table of scores or labels, keyed by uid, as columns of `samples`: to query, and to filter on.

    SCORES.parquet (uid, columns) --check, sort by uid--> OUT/joined/NAME.parquet

The shards are not touched. A sample without a row has nulls; to take a table away, delete its file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import duckdb

from pipeline.catalog.catalog import joined_files, open_catalog, quote_name, sql_errors
from pipeline.catalog.uid_tables import rows_by_uid
from pipeline.errors import InputError, OutputError
from pipeline.storage.duck import quote_text
from pipeline.storage.place import Place
from pipeline.storage.written import written

__all__ = ["JoinResult", "JoinTable", "join", "read_table_to_join"]


@dataclass(frozen=True, kw_only=True)
class JoinResult:
    """What was joined."""

    name: str
    columns: tuple[str, ...]
    rows: int
    samples: int
    """Samples of the set."""
    covered: int
    """Samples that the table has a row for."""


@dataclass(frozen=True, kw_only=True)
class JoinTable:
    """A table that fits the samples of a set."""

    name: str
    columns: tuple[str, ...]
    sql: str
    """A SELECT of `uid` and the columns, sorted by uid."""
    rows: int
    covered: int
    """Samples of the view `published` that it has a row for."""


def join(output: Place, scores: Place, name: str | None = None) -> JoinResult:
    """Make the columns of `scores` columns of the view `samples`, under `name` (default: the file's name).

    `scores` needs a column `uid` (16 bytes, or 32 hex digits), each uid at most once, and at least one more.
    Raises InputError where it is not so or a column's name is taken, OutputError where the data set is none
    or already has a table of this name; then nothing has changed.
    """
    with open_catalog(output, "samples") as database:
        table = read_table_to_join(database, scores, name, there=joined_files(output))
        samples = int(database.execute("SELECT count(*) FROM published").fetchall()[0][0])
        with sql_errors(str(scores)), written(output / "joined" / f"{table.name}.parquet") as temporary:
            database.execute(f"COPY ({table.sql}) TO {quote_text(temporary)} (FORMAT parquet, COMPRESSION zstd)")
    return JoinResult(name=table.name, columns=table.columns, rows=table.rows, samples=samples, covered=table.covered)


def read_table_to_join(
    database: duckdb.DuckDBPyConnection, scores: Place, name: str | None, *, there: Mapping[str, Place]
) -> JoinTable:
    """The table in `scores`, held against the views `samples` and `published`; `there` are the tables joined already.

    Raises as `join` does, and InputError where no sample has a row.
    """
    name = name if name is not None else re.sub(r"\W+", "_", scores.stem)
    if not re.fullmatch(r"\w+", name):
        raise InputError(f"--name {name!r}: use letters, digits and underscores")
    if name in there:
        raise OutputError(f"{there[name]}: a table of this name is joined already; delete it or give another --name")
    rows, columns = rows_by_uid(database, scores)
    if not columns:
        raise InputError(f"{scores}: has no column but uid; there is nothing to join")
    taken = {column.lower() for column, *_ in database.execute("DESCRIBE samples").fetchall()}
    clashes = [column for column in columns if column.lower() in taken]
    if clashes:
        raise InputError(f"{scores}: samples have a column {clashes[0]} already; rename it in the table")
    with sql_errors(str(scores)):
        count, different, covered = database.execute(
            f"SELECT count(*), count(DISTINCT uid), "
            f"(SELECT count(*) FROM published SEMI JOIN ({rows}) USING (uid)) FROM ({rows})"
        ).fetchall()[0]
        if count != different:
            again = database.execute(
                f"SELECT lower(hex(uid)) FROM ({rows}) GROUP BY uid HAVING count(*) > 1 ORDER BY uid LIMIT 1"
            ).fetchall()[0][0]
            raise InputError(f"{scores}: {count - different:,} rows repeat a uid, for example {again}; keep one each")
        samples = database.execute("SELECT count(*) FROM published").fetchall()[0][0]
        if samples and not covered:
            raise InputError(
                f"{scores}: none of its {count:,} uids is a sample of this set; give scores of this very set"
            )
    listed = ", ".join(["uid", *map(quote_name, columns)])
    return JoinTable(
        name=name,
        columns=tuple(columns),
        sql=f"SELECT {listed} FROM ({rows}) ORDER BY uid",
        rows=int(count),
        covered=int(covered),
    )
