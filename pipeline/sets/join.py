"""Add a user's table of scores or labels, keyed by uid, as columns of `samples`: to query, and to filter on.

    SCORES.parquet (uid, columns) --check, sort by uid--> OUT/joined/NAME.parquet

The shards are not touched. A sample without a row has nulls; to take a table away, delete its file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.catalog.catalog import joined_files, open_catalog, quote_name, sql_errors
from pipeline.catalog.uid_tables import rows_by_uid
from pipeline.errors import InputError, OutputError
from pipeline.storage.duck import quote_text
from pipeline.storage.place import Place
from pipeline.storage.written import written

__all__ = ["JoinResult", "join"]


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


def join(output: Place, scores: Place, name: str | None = None) -> JoinResult:
    """Make the columns of `scores` columns of the view `samples`, under `name` (default: the file's name).

    `scores` needs a column `uid` (16 bytes, or 32 hex digits), each uid at most once, and at least one more.
    Raises InputError where it is not so or a column's name is taken, OutputError where the data set is none
    or already has a table of this name; then nothing has changed.
    """
    name = name if name is not None else re.sub(r"\W+", "_", scores.stem)
    if not re.fullmatch(r"\w+", name):
        raise InputError(f"--name {name!r}: use letters, digits and underscores")
    with open_catalog(output, "samples") as database:
        path = output / "joined" / f"{name}.parquet"
        if name in joined_files(output):
            raise OutputError(f"{path}: a table of this name is joined already; delete it or give another --name")
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
                raise InputError(
                    f"{scores}: {count - different:,} rows repeat a uid, for example {again}; keep one each"
                )
            samples = int(database.execute("SELECT count(*) FROM published").fetchall()[0][0])
            listed = ", ".join(["uid", *map(quote_name, columns)])
            with written(path) as temporary:
                database.execute(
                    f"COPY (SELECT {listed} FROM ({rows}) ORDER BY uid) TO {quote_text(temporary)} "
                    "(FORMAT parquet, COMPRESSION zstd)"
                )
    return JoinResult(name=name, columns=tuple(columns), rows=int(count), samples=samples, covered=int(covered))
