"""pictures, same_pictures: the pictures of FETCHED, and which of them are equal, over the whole set.

FETCHED --pictures--> one row per picture, in row groups by hash partition
        --same_pictures--> losers, winners (per partition)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine import WORKER_MB, Data, Info, Needs, Task, apart, output
from pipeline.pictures.thumbnail import NUM_BYTES
from pipeline.records.identity import keyed_hash
from pipeline.steps.judges.image_dedup_config import ImageDedupConfig, Mode
from pipeline.steps.judges.survivors import Survivors, survivors_of
from pipeline.steps.step import Run, step
from pipeline.storage.checked import read_row_groups
from pipeline.storage.duck import open_duckdb, spill_beside
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import parquet_writer

__all__ = [
    "GONE",
    "PICTURES",
    "Equal",
    "FindEqual",
    "Gone",
    "ListPictures",
    "Pictures",
    "find_equal",
    "list_pictures",
]

PICTURES = pa.schema(
    [
        pa.field("url_id", pa.binary(16), nullable=False),
        pa.field("uid", pa.binary(16), nullable=False),  # the smallest of its pairs
        pa.field("order", pa.uint64(), nullable=False),
        pa.field("pixels", pa.int64(), nullable=False),  # of the original
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("phash", pa.uint64(), nullable=False),
        pa.field("thumbnail", pa.binary(NUM_BYTES)),  # null where there is none, and where none is needed
    ]
)
GONE = pa.schema(
    [
        pa.field("order", pa.uint64(), nullable=False),  # sorted by it: a staging shard reads its range
        pa.field("url_id", pa.binary(16), nullable=False),
        pa.field("kept", pa.binary(16), nullable=False),  # uid of a pair of the picture that stays
        pa.field("reason", pa.string(), nullable=False),
    ]
)
_FACTS = ("url_id", "uid", "order", "original_width", "original_height", "sha256", "phash", "thumbnail")


# --- pictures: one row per picture, laid out for the exchange -------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures of a staging shard; row group i is of hash partition i, empty or not."""

    pictures: Location = output("pictures.parquet", PICTURES)


@dataclass(frozen=True, kw_only=True)
class ListPictures(Task[Pictures]):
    """The pictures of one staging shard."""

    fetched: Location
    mode: Mode
    partitions: int

    version = 2

    def work(self, out: Pictures) -> Info:
        rows: dict[bytes, dict[str, Any]] = {}
        for batch in survivors_of(self.fetched, _FACTS):
            for row in batch.to_pylist():
                known = rows.setdefault(row["url_id"], row)
                known["uid"] = min(known["uid"], row["uid"])
        for row in rows.values():
            row["pixels"] = row.pop("original_width") * row.pop("original_height")
            row["thumbnail"] = row["thumbnail"] if self.mode == "near" else None
        table = pa.Table.from_pylist(list(rows.values()), schema=PICTURES)
        where = self._partition_of(table)
        with parquet_writer(out.pictures.local, PICTURES) as writer:
            for partition in range(self.partitions):
                part = table.filter(pa.array(where == partition))
                writer.write_table(part, row_group_size=max(1, part.num_rows))
        return {"rows": table.num_rows}

    def _partition_of(self, table: pa.Table) -> npt.NDArray[np.uint64]:
        """Equal files always meet; in mode near equal hashes do (an equal file has an equal hash; 0 says nothing)."""
        files = np.array([int(text[:16], 16) for text in table["sha256"].to_pylist()], np.uint64)
        phashes = table["phash"].to_numpy().astype(np.uint64)
        keys = np.where(phashes != 0, phashes, files) if self.mode == "near" else files
        return ((keyed_hash(0, keys) >> np.uint64(32)) * np.uint64(self.partitions)) >> np.uint64(32)


@step("pictures", ListPictures, title="list pictures", per="staging shard")
def list_pictures(run: Run, arrived: Data[Survivors], config: ImageDedupConfig) -> Iterator[ListPictures]:
    """One task per staging shard."""
    for part in arrived.parts:
        yield ListPictures(
            partition=part.name, fetched=part.files.fetched, mode=config.mode, partitions=config.partitions
        )


# --- same_pictures: equal files and equal hashes --------------------------------------------------

_SAME = """
    WITH by_file AS (
        SELECT *, row_number() OVER file AS place, first_value(uid) OVER file AS best FROM pictures
        WINDOW file AS (PARTITION BY sha256 ORDER BY pixels DESC, "order", url_id)
    ), by_hash AS (
        SELECT url_id, row_number() OVER hash AS place, first_value(uid) OVER hash AS best FROM by_file
        WHERE place = 1 AND phash <> 0 AND $near
        WINDOW hash AS (PARTITION BY phash, thumbnail ORDER BY pixels DESC, "order", url_id)
    )
    SELECT f.url_id, f.uid, f."order", f.pixels, f.phash, f.thumbnail,
           CASE WHEN f.place > 1 THEN f.best WHEN h.place > 1 THEN h.best END AS kept,
           CASE WHEN f.place > 1 THEN 'same_file' WHEN h.place > 1 THEN 'same_picture' END AS reason
    FROM by_file f LEFT JOIN by_hash h USING (url_id) ORDER BY f."order", f.url_id
"""


@dataclass(frozen=True, kw_only=True)
class Gone:
    """The pictures that go, each with one that stays. A part tells how many, and for how many their hashes alone
    decided: `gone`, `by_hash_alone`."""

    gone: Location = output("gone.parquet", GONE)


@dataclass(frozen=True, kw_only=True)
class Equal(Gone):
    """The pictures of a hash partition that go since another is equal, and in mode near those that stay."""

    winners: Location = output("winners.parquet", PICTURES)


@dataclass(frozen=True, kw_only=True)
class FindEqual(Task[Equal]):
    """Equal files and equal hashes of one hash partition."""

    pictures: Files
    number: int
    """Of the partition."""
    mode: Mode
    partitions: int
    memory_mb: int = apart()

    version = 2

    @property
    def needs(self) -> Needs:
        return Needs(memory_mb=WORKER_MB + self.memory_mb)

    def work(self, out: Equal) -> Info:
        near = self.mode == "near"
        rows = gone = by_hash_alone = 0
        with (
            open_duckdb(
                spill_beside(out.gone.local),
                memory_mb=self.memory_mb,
                streams={"pictures": (PICTURES, self._pictures())},
            ) as database,
            parquet_writer(out.gone.local, GONE) as gone_file,
            parquet_writer(out.winners.local, PICTURES) as winners_file,
        ):
            for batch in database.sql(_SAME.replace("$near", str(near))).to_arrow_reader(65_536):
                rows += batch.num_rows
                stays = pc.is_null(batch.column("kept"))
                lost = batch.filter(pc.invert(stays))
                gone += lost.num_rows
                of_hash = pc.equal(lost.column("reason"), "same_picture")
                by_hash_alone += pc.sum(pc.and_(of_hash, pc.is_null(lost.column("thumbnail")))).as_py() or 0
                if lost.num_rows:
                    gone_file.write_batch(lost.select(GONE.names).cast(GONE))
                if near:
                    won = batch.filter(pc.and_(stays, pc.not_equal(batch.column("phash"), pa.scalar(0, pa.uint64()))))
                    empty = pa.array([""] * won.num_rows, pa.string())  # no longer needed
                    columns = [empty if name == "sha256" else won.column(name) for name in PICTURES.names]
                    if won.num_rows:
                        winners_file.write_batch(pa.RecordBatch.from_arrays(columns, PICTURES.names).cast(PICTURES))
        return {"rows": rows, "gone": gone, "by_hash_alone": by_hash_alone}

    def _pictures(self) -> Iterator[pa.RecordBatch]:
        for file in self.pictures:
            for group in read_row_groups(file, self.number, self.partitions):
                yield from group.cast(PICTURES).to_batches()


@step("same_pictures", FindEqual, title="find equal pictures", per="hash partition")
def find_equal(run: Run, pictures: Data[Pictures], config: ImageDedupConfig) -> Iterator[FindEqual]:
    """One task per hash partition."""
    files = pictures.files(lambda out: out.pictures)
    for number in range(config.partitions if files else 0):
        yield FindEqual(
            partition=f"part-{number:05d}",
            pictures=files,
            number=number,
            mode=config.mode,
            partitions=config.partitions,
            memory_mb=config.memory_mb,
        )
