"""The query list as the pipeline sees it: a Parquet file that vouches for its own content.

`query_list` writes it; anyone may bring another: one query a line, or a table with a `query` column.
"""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import InputError, QueryListError
from pipeline.records.identity import text_hash
from pipeline.records.schema import QUERIES
from pipeline.storage.lines import decode_text, read_lines
from pipeline.storage.parquet import write_parquet
from pipeline.storage.place import Place, place_of
from pipeline.storage.store_client import StoreError
from pipeline.storage.written import written

__all__ = ["QueryList", "content_fingerprint", "query_list_of", "read_queries", "write_queries"]

_FINGERPRINT = b"openwit.fingerprint"


@dataclass(frozen=True, kw_only=True)
class QueryList:
    """Q queries; a query's id is its place."""

    table: pa.Table
    """The rows, with the columns of schema.QUERIES."""
    queries: list[str]
    query_hashes: npt.NDArray[np.uint64]
    """uint64[Q]: `identity.text_hash` of each query, which stands for it in every keyed draw."""
    fingerprint: str
    """32 hex digits over all rows and columns."""

    def __len__(self) -> int:
        return len(self.queries)


def read_queries(path: str | Place) -> QueryList:
    """Read a query list, or a user's own list (.txt; .csv or .parquet with a column `query`).

    A user's queries are taken as the text that they are (a list may hold 007 and 1e5), and keep their order; empty
    lines and repetitions are dropped. Raises QueryListError where the file is missing, unreadable, not UTF-8, empty,
    or not the list that it was written as; StoreError where it lies in a bucket whose store does not answer.
    """
    path = place_of(path)
    try:
        if path.suffix == ".parquet":
            table = pq.ParquetFile(path if isinstance(path, Path) else pa.BufferReader(path.read_bytes())).read()
            stated = (table.schema.metadata or {}).get(_FINGERPRINT)
            if stated is not None:
                return _own_list(path, table, stated.decode())
            texts = _column_of(path, table)
        elif path.suffix == ".csv":
            texts = _queries_of_csv(path)
        elif path.suffix == ".txt":
            texts = read_lines(path)
        else:
            raise QueryListError(f"{path}: a query list is a .parquet, .csv or .txt file; rename or convert it")
    except FileNotFoundError as error:
        raise QueryListError(
            f"{path}: no such query list; build one with `python -m query_list build CONFIG.yaml`"
        ) from error
    except InputError as error:
        raise QueryListError(str(error)) from error
    except StoreError:
        raise
    except (OSError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise QueryListError(
            f"{path}: cannot read the query list ({reason}); build it again or give another"
        ) from error
    found = query_list_of([text for text in dict.fromkeys(map(str.strip, texts)) if text])
    if not found.queries:
        raise QueryListError(f"{path}: holds no query; give one query a line")
    return found


def _queries_of_csv(path: Place) -> list[str]:
    """The column `query`. Read as text: a reader that guesses types makes 7.0 of 007."""
    rows = csv.reader(io.StringIO(decode_text(path.read_bytes(), path), newline=""), strict=True)
    texts: list[str] = []
    at: int | None = None
    try:
        for row in rows:
            if at is None:
                at = _place_of(path, row)
            elif row:  # an empty line is no row
                texts.append(row[at])
    except (csv.Error, IndexError) as error:
        what = f"has no field for the column 'query' ({len(row)} there)" if isinstance(error, IndexError) else error
        raise QueryListError(f"{path}: line {rows.line_num}: {what}; correct the line") from error
    return texts


def _column_of(path: Place, table: pa.Table) -> list[str]:
    column = table.column(_place_of(path, table.column_names))
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    if not (is_bytes or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise QueryListError(f"{path}: the column 'query' holds {kind}, not text; write it as text")
    texts: list[str] = []
    for number, value in enumerate(column.cast(pa.large_binary()).to_pylist()):
        try:
            texts.append((value or b"").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise QueryListError(f"{path}: row {number} is not UTF-8; write the column as text") from error
    return texts


def _place_of(path: Place, names: list[str]) -> int:
    places = [place for place, name in enumerate(names) if name.strip() == "query"]
    if not places:
        raise QueryListError(f"{path}: has no column 'query' (but {', '.join(names)}); rename the column")
    if len(places) > 1:
        raise QueryListError(f"{path}: has {len(places)} columns 'query'; rename all but one")
    return places[0]


def query_list_of(queries: list[str], source: str = "file") -> QueryList:
    """A query list of plain texts, in this order."""
    size = len(queries)
    order = pa.array(np.arange(size, dtype=np.int32))
    columns = {
        "query_id": order,
        "query": pa.array(queries, pa.string()),
        "source": pa.array([source] * size, pa.string()),
        "count": pa.nulls(size, pa.int64()),
        "views": pa.nulls(size, pa.int64()),
        "pmi": pa.nulls(size, pa.float64()),
        "rank": order,
    }
    table = pa.table(columns, schema=QUERIES)
    return _query_list(table, content_fingerprint(table))


def write_queries(table: pa.Table, path: str | Place) -> str:
    """Write `table` (schema.QUERIES, query_id = place) whole or not at all; returns its fingerprint.

    The same rows give the same bytes. Raises OutputError when the file cannot be written.
    """
    table = table.select(QUERIES.names).cast(QUERIES).combine_chunks()
    mark = content_fingerprint(table)
    with written(place_of(path)) as temporary:
        write_parquet(temporary, table, QUERIES.with_metadata({_FINGERPRINT: mark.encode()}))
    return mark


def content_fingerprint(table: pa.Table) -> str:
    """32 hex digits over names, types and values of the table's columns, whatever their chunks."""
    digest = hashlib.sha256()
    for name in table.column_names:
        column = _whole(table.column(name))
        digest.update(f"{name}\0{column.type}\0{len(column)}\0".encode())
        valid = _numbers(pc.cast(pc.is_valid(column), pa.uint8()))
        digest.update(np.packbits(valid).tobytes())
        if pa.types.is_string(column.type):
            values = column.fill_null("") if column.null_count else column
            digest.update(_numbers(pc.binary_length(values)).astype("<i8").tobytes())
            digest.update("".join(values.to_pylist()).encode())
        else:
            numbers = np.where(valid, _numbers(column), 0)
            digest.update(numbers.astype(numbers.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()[:32]


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    found = column.combine_chunks()
    if isinstance(found, pa.ChunkedArray):
        return pa.concat_arrays(found.chunks) if found.num_chunks else pa.array([], found.type)
    return found


def _numbers(column: pa.Array) -> npt.NDArray[Any]:
    """The values of a column of numbers; where it is null, any.

    Not by `to_numpy`: like `pa.scalar` it imports pandas where that is installed, which takes longer than all of
    `status`, where every list is read.
    """
    values = pa.Array.from_buffers(column.type, len(column), [None, column.buffers()[1]], offset=column.offset)
    return np.from_dlpack(values)


def _own_list(path: Place, table: pa.Table, stated: str) -> QueryList:
    remedy = "build it again with `python -m query_list build CONFIG.yaml`"
    if not table.schema.remove_metadata().equals(QUERIES):
        raise QueryListError(f"{path}: its columns are not those of this version's query lists; {remedy}")
    in_place = np.array_equal(_numbers(_whole(table.column("query_id"))), np.arange(table.num_rows))
    if not in_place or content_fingerprint(table) != stated:
        raise QueryListError(f"{path}: its rows are not those that its fingerprint vouches for; {remedy}")
    if not table.num_rows:
        raise QueryListError(f"{path}: holds no query; lower the minimum counts and {remedy}")
    return _query_list(table.replace_schema_metadata(None), stated)


def _query_list(table: pa.Table, mark: str) -> QueryList:
    queries = table.column("query").to_pylist()
    hashes = np.fromiter((text_hash(query) for query in queries), np.uint64, len(queries))
    return QueryList(table=table, queries=queries, query_hashes=hashes, fingerprint=mark)
