"""Users' files keyed by uid: Parquet with a column `uid` (16 bytes, or 32 hex digits), or text, one uid a line."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TextIO

import duckdb
import pyarrow as pa

from pipeline.catalog.catalog import quote_name
from pipeline.errors import InputError, one_line
from pipeline.storage.bucket import BucketPath
from pipeline.storage.duck import read_parquet_sql, use_buckets
from pipeline.storage.place import Place, files_in

__all__ = ["load_uids", "rows_by_uid"]

_LINES = 65_536


def rows_by_uid(database: duckdb.DuckDBPyConnection, path: Place) -> tuple[str, list[str]]:
    """(SQL, other columns): a SELECT over the table in `path`, a file or a directory of them, with `uid` as a 16-byte
    BLOB first.

    Raises InputError where the file is missing, no Parquet, or its uid column is absent or not of uids.
    """
    files = files_in(path, "*.parquet") if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: no Parquet file in it")
    if not files[0].is_file():
        raise InputError(f"{path}: no such file")
    use_buckets(database, files)
    table = read_parquet_sql(files)
    try:
        described = database.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()
    except duckdb.Error as error:
        raise InputError(f"{path}: cannot be read as Parquet ({one_line(error)})") from error
    kinds = {name: kind for name, kind, *_ in described}
    if "uid" not in kinds:
        raise InputError(f"{path}: has no column uid (but {', '.join(kinds)}); rename the column")
    if kinds["uid"] == "BLOB":
        uid, fits = "uid", "octet_length(uid) = 16"
    elif kinds["uid"] == "VARCHAR":
        uid, fits = "unhex(uid)", "regexp_full_match(uid, '[0-9a-fA-F]{32}')"
    else:
        raise InputError(f"{path}: its column uid is of {kinds['uid']}; uids are 16 bytes or 32 hex digits")
    try:
        wrong = database.execute(f"SELECT count(*) FROM {table} WHERE NOT coalesce({fits}, false)").fetchall()[0][0]
    except duckdb.Error as error:
        raise InputError(f"{path}: cannot be read to its end ({one_line(error)})") from error
    if wrong:
        raise InputError(f"{path}: {wrong:,} rows have no valid uid; uids are 16 bytes or 32 hex digits")
    others = [name for name in kinds if name != "uid"]
    return f"SELECT {', '.join([f'{uid} AS uid', *map(quote_name, others)])} FROM {table}", others


def load_uids(database: duckdb.DuckDBPyConnection, path: Place, table: str) -> int:
    """Make `table`, the different uids of a .parquet or text file; returns how many. Raises InputError."""
    if path.suffix == ".parquet":
        database.execute(f"CREATE TABLE {table} AS SELECT DISTINCT uid FROM ({rows_by_uid(database, path)[0]})")
    else:
        database.execute("CREATE TABLE uid_lines (uid BLOB)")
        for batch in _batches(path):
            database.register("uid_batch", batch)
            database.execute("INSERT INTO uid_lines SELECT uid FROM uid_batch")
            database.unregister("uid_batch")
        database.execute(f"CREATE TABLE {table} AS SELECT DISTINCT uid FROM uid_lines")
        database.execute("DROP TABLE uid_lines")
    count = int(database.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])
    if not count:
        raise InputError(f"{path}: holds no uid")
    return count


def _batches(path: Place) -> Iterator[pa.Table]:
    try:
        with _open_text(path) as file:
            held: list[bytes] = []
            for number, line in enumerate(file, start=1):
                text = line.strip()
                if not text:
                    continue
                try:
                    uid = bytes.fromhex(text)
                except ValueError:
                    uid = b""
                if len(uid) != 16 or len(text) != 32:
                    raise InputError(f"{path}: line {number} is no uid ({text[:40]!r}); give 32 hex digits a line")
                held.append(uid)
                if len(held) == _LINES:
                    yield pa.table({"uid": pa.array(held, pa.binary())})
                    held = []
            yield pa.table({"uid": pa.array(held, pa.binary())})
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({one_line(error)})") from error


def _open_text(path: Place) -> TextIO:
    if isinstance(path, BucketPath):
        return io.TextIOWrapper(io.BufferedReader(path.open()), encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")
