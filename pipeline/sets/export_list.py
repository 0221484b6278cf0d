"""The data set as a list: URLs and captions with uids, queries and provenance, without images.

    OUT/shards/*.parquet + query texts --shard by shard--> LIST.parquet (schema.LIST below)

That is what others publish as the data set. The list is a source as well: `sources: [LIST.parquet]` reads
`url`, `alt_text` and `text_source`, from which the same uids follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog.catalog import open_catalog
from pipeline.errors import InputError, OutputError
from pipeline.records.removals import tombstones_of
from pipeline.records.schema import SAMPLES
from pipeline.storage.atomic import read_json
from pipeline.storage.bucket import BucketPath
from pipeline.storage.checked import read_batches, read_schema
from pipeline.storage.location import Location
from pipeline.storage.parquet import write_parquet
from pipeline.storage.place import Place
from pipeline.storage.written import written

__all__ = ["LIST", "export_list"]

_COPIED = (
    *("uid", "url", "alt_text", "caption", "text_source", "page_url", "license", "source", "record", "link"),
    *("lang", "p_en", "lang_by", "query_ids", "selected_by"),
)
_FACTS = ("sha256", "phash", "original_width", "original_height", "original_format", "original_bytes")
_TEXTS = pa.list_(pa.string())

LIST = pa.schema(
    [
        *(SAMPLES.field(name) for name in _COPIED),
        pa.field("queries", _TEXTS, nullable=False),  # the texts of query_ids, in the same order
        *(SAMPLES.field(name) for name in _FACTS),
    ]
)
"""One row per sample, in the set's order. `sha256` is of the picture as served, so that who downloads the list
again can tell what has changed."""


def export_list(output: Place, to: Place) -> int:
    """Write the published samples' list to `to`, whole or not at all; returns its rows.

    Memory is bounded by one shard. Raises InputError where nothing is published yet, OutputError where
    `output` is no data set or `to` cannot be written or is part of it.
    """
    if to.suffix != ".parquet":
        raise OutputError(f"{to}: a list is a .parquet file; rename it")
    own = "shards" if isinstance(output, BucketPath) else "versions"
    if {(output / own).resolve(), (output / "work").resolve()} & set(to.resolve().parents):
        raise OutputError(f"{to}: lies among the files of the data set; choose another place")
    texts = "SELECT query_id, query FROM queries ORDER BY query_id"
    with open_catalog(output, texts) as database:
        queries = database.sql(texts).to_arrow_table()
    manifest = read_json(output / "shards" / "manifest.json")
    if manifest is None:
        raise InputError(f"{output}: has no published shards yet; finish its run first")
    shards = [Location(str(output / "shards" / s["parquet"]), s["parquet_sha256"]) for s in manifest["shards"]]
    with written(to) as path:
        removed = pa.array(sorted(tombstones_of(output / "shards")), pa.binary(16))
        return write_parquet(path, _batches(shards, queries, removed), LIST)


def _batches(shards: Sequence[Location], queries: pa.Table, removed: pa.Array) -> Iterator[pa.RecordBatch]:
    texts = queries["query"].combine_chunks()  # a query's id is its place
    for shard in shards:
        known = read_schema(shard).names
        there = [column for column in (*_COPIED, *_FACTS) if column in known]
        for read in read_batches(shard, columns=there):
            batch = read.filter(pc.invert(pc.is_in(read.column("uid"), removed)))
            lists = batch.column("query_ids")
            named = pa.ListArray.from_arrays(
                pa.array(lists.offsets.to_numpy() - lists.offsets[0].as_py(), pa.int32()),
                texts.take(lists.flatten()),
            )
            columns = {column: batch.column(column) for column in there} | {"queries": named}
            arrays = [
                # What an earlier version did not write is null.
                columns[field.name].cast(field.type) if field.name in columns else pa.nulls(len(batch), field.type)
                for field in LIST
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=LIST)
