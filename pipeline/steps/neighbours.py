"""The pairs of a hash partition in an order in which copies are neighbours, and why each of them goes.

A partition is sorted once by DuckDB, which spills to disk beyond its memory limit; what follows is a stream. A pair may
be marked before it is sorted: what is marked goes, and stands behind what is not among the pairs of its picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.records.earlier import as_now
from pipeline.records.identity import first_64_bits, keyed_hash
from pipeline.records.schema import MATCHED
from pipeline.stages.balance.edges import ids_of
from pipeline.storage.duck import open_duckdb

__all__ = ["ORDER", "Marks", "Neighbours", "in_order", "unmarked", "verdicts"]

_BATCH_ROWS = 65_536
_MARKS = [
    pa.field("draw", pa.uint64(), nullable=False),
    pa.field("why", pa.string()),
    pa.field("detail", pa.string()),
]
ORDER = {
    "pair": "url_id, why IS NOT NULL, caption, uid, source, record, link",
    "hash": "url_id, why IS NOT NULL, draw, uid, source, record, link",
    "best": "url_id, why IS NOT NULL, p_en DESC, draw, uid, source, record, link",
}
"""What stays comes first among its like: a total order, free of partitions and of the order of files."""


def unmarked(batch: pa.RecordBatch) -> tuple[pa.Array, pa.Array]:
    """No row goes."""
    nothing = pa.nulls(batch.num_rows, pa.string())
    return nothing, nothing


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Which pairs go before copies are looked for."""

    of: Callable[[pa.RecordBatch], tuple[pa.Array, pa.Array]] = unmarked
    """Why each row of MATCHED goes, null where it may stay, and a detail of it: string[N] both."""
    max_captions_per_url: int | None = None
    """A picture with more captions loses all of them. Goes with rows that hold each pair once."""


def in_order(
    batches: Iterator[pa.RecordBatch], order: str, memory_mb: int, spill: Path, *, seed: int = 0, marks: Marks = Marks()
) -> Iterator[pa.RecordBatch]:
    """MATCHED rows with _MARKS, in `order` (one of ORDER)."""
    schema = pa.schema([*MATCHED, *_MARKS])

    def marked() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if not batch.num_rows:
                continue
            plain = as_now(batch, MATCHED)
            draws = keyed_hash(seed, first_64_bits(ids_of(plain.column("uid"))))
            columns = [*plain.columns, pa.array(draws, pa.uint64()), *marks.of(plain)]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    rows = "rows_in"
    if marks.max_captions_per_url is not None:
        most = f"why IS NULL AND captions > {marks.max_captions_per_url}"
        rows = f"""(SELECT * EXCLUDE captions REPLACE (
            CASE WHEN {most} THEN 'too_many_captions' ELSE why END AS why,
            CASE WHEN {most} THEN captions::VARCHAR ELSE detail END AS detail
        ) FROM (SELECT *, count(*) OVER (PARTITION BY url_id) AS captions FROM rows_in))"""
    with open_duckdb(spill, memory_mb=memory_mb, streams={"rows_in": (schema, marked())}) as database:
        for batch in database.sql(f"SELECT * FROM {rows} ORDER BY {ORDER[order]}").to_arrow_reader(_BATCH_ROWS):
            yield batch.cast(schema)


class Neighbours:
    """Says for the rows of a sorted stream what each shares with the one that was kept last."""

    def __init__(self) -> None:
        self._url_id = b""
        self._caption = ""

    def shared(self, batch: pa.RecordBatch) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """(bool[N] same URL as the row before, bool[N] same caption too), across batches."""
        urls = pa.concat_arrays([pa.array([self._url_id.ljust(16, b"\0")], pa.binary(16)), batch.column("url_id")])
        texts = pa.concat_arrays([pa.array([self._caption], pa.string()), batch.column("caption")])
        same_url = pc.equal(urls[1:], urls[:-1]).to_numpy(zero_copy_only=False)
        same_text = pc.equal(texts[1:], texts[:-1]).to_numpy(zero_copy_only=False)
        if not self._url_id and len(same_url):
            same_url = np.concatenate(([False], same_url[1:]))
        if batch.num_rows:
            self._url_id, self._caption = batch.column("url_id")[-1].as_py(), batch.column("caption")[-1].as_py()
        return same_url, same_url & same_text


def verdicts(batch: pa.RecordBatch, by: Literal["pair", "url"], before: Neighbours) -> pa.Array:
    """string[N]: why a row of the sorted stream goes; null where it stays."""
    same_url, same_pair = before.shared(batch)
    reasons = np.full(batch.num_rows, None, object)
    if by == "url":
        reasons[same_url] = "other_caption"
    reasons[same_pair] = "duplicate"
    return pc.coalesce(batch.column("why"), pa.array(reasons, pa.string()))
