"""The rows and pictures of a release, as tasks: what the columns say, and nothing else of a sample.

    some shards' Parquet --columns, in the set's order--> links/00000.parquet
    a shard's Parquet and tar --columns; pictures by offset, held against their hash--> links/ and pictures/00000.tar

The tar is written anew: in a shard's own, a sample's .json holds every column there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.engine import Info, Task, output
from pipeline.records.schema import CAPTIONED
from pipeline.records.shard import extension_of, json_of
from pipeline.storage.checked import check, open_file, read_batches, read_ranges, read_schema, read_table
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import write_parquet
from pipeline.storage.tar import TarWriter

__all__ = ["LinkFiles", "PictureFiles", "WriteLinks", "WritePictures", "schema_of"]

_PICTURES_AT_A_TIME = 64


@dataclass(frozen=True, kw_only=True)
class LinkFiles:
    """A file of rows."""

    links: Location = output("parquet")


@dataclass(frozen=True, kw_only=True)
class PictureFiles:
    """The same with its pictures."""

    links: Location = output("parquet")
    tar: Location = output("tar")


def schema_of(columns: Sequence[str]) -> pa.Schema:
    """Of the rows: identities are text, 32 hex digits, which every reader shows and joins by."""
    return pa.schema([_field(CAPTIONED.field(name)) for name in columns])


def _field(field: pa.Field) -> pa.Field:
    return field.with_type(pa.string()) if pa.types.is_fixed_size_binary(field.type) else field


@dataclass(frozen=True, kw_only=True)
class WriteLinks(Task[LinkFiles]):
    """The rows of some shards, one after the other."""

    shards: Files
    """Their Parquet files."""
    columns: tuple[str, ...]

    published = True

    def work(self, out: LinkFiles) -> Info:
        schema = schema_of(self.columns)
        return {"rows": write_parquet(out.links.local, self._rows(schema), schema)}

    def _rows(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for shard in self.shards:
            known = set(read_schema(shard).names)
            for batch in read_batches(shard, columns=[name for name in self.columns if name in known]):
                yield _plain(batch, schema)


@dataclass(frozen=True, kw_only=True)
class WritePictures(Task[PictureFiles]):
    """A shard: its rows, and a tar of its pictures with the same columns beside each."""

    shard: Location
    tar: Location
    columns: tuple[str, ...]

    published = True

    def work(self, out: PictureFiles) -> Info:
        table = read_table(self.shard)
        if "stored_xxh3" not in table.column_names:  # published by an earlier version
            check(self.tar)
        schema = schema_of(self.columns)
        offsets: list[int] = []
        plain = pa.Table.from_batches([_plain(batch, schema) for batch in table.to_batches()], schema).to_pylist()
        with TarWriter(out.tar.local) as tar:
            for row, (facts, image) in zip(plain, self._pictures(table), strict=True):
                key = facts["key"]
                offsets.append(tar.add(f"{key}.{extension_of(image)}", image))
                if "tar_offset" in row:
                    row["tar_offset"] = offsets[-1]
                tar.add(f"{key}.json", json_of(row))
                tar.add(f"{key}.txt", facts["caption"].encode())
        write_parquet(out.links.local, pa.Table.from_pylist(plain, schema=schema), schema)
        return {"rows": len(plain), "bytes": out.tar.local.stat().st_size}

    def _pictures(self, table: pa.Table) -> Iterator[tuple[Mapping[str, Any], bytes]]:
        needed = [
            name for name in ("key", "caption", "tar_offset", "num_bytes", "stored_xxh3") if name in table.schema.names
        ]
        with open_file(self.tar.path) as file:
            for batch in table.select(needed).to_batches(max_chunksize=_PICTURES_AT_A_TIME):
                rows = batch.to_pylist()
                places = [(row["tar_offset"], row["num_bytes"], row.get("stored_xxh3")) for row in rows]
                yield from zip(rows, read_ranges(file, places), strict=True)


def _plain(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The columns of `schema`; null is what an earlier version did not write."""
    arrays = []
    for field in schema:
        if field.name not in batch.schema.names:
            arrays.append(pa.nulls(len(batch), field.type))
            continue
        column = batch.column(field.name)
        arrays.append(_hex(column) if pa.types.is_fixed_size_binary(column.type) else column.cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _hex(column: pa.Array) -> pa.Array:
    """Bytes as hex digits."""
    if column.null_count:
        return pa.array([None if value is None else value.hex() for value in column.to_pylist()], pa.string())
    width = column.type.byte_width
    joined = b"".join(column.to_pylist()).hex()
    return pa.array([joined[at : at + 2 * width] for at in range(0, len(joined), 2 * width)], pa.string())
