"""image_dedup: FETCHED -> FETCHED with one picture of those that are the same or look the same, over the whole set.

    FETCHED --pictures--> one row per picture, in row groups by hash partition
            --same_pictures--> losers, winners (per partition) --near_pictures--> pairs (per band and key range)
            --clusters, by thumbnail--> who goes for whom --image_dedup--> FETCHED (per staging shard)

Hashes find the pairs, thumbnails decide (`pipeline.thumbnail`). Facts of before there were thumbnails are judged by
their hashes alone; the done-records count what goes so (`by_hash_alone`).

Of equals the largest original stays, then the first in the set's order. A picture stands or falls with all
its pairs. Nothing here holds the set: a partition's pictures, a key range's hashes, the pairs that look alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from configs.load import from_mapping, to_mapping
from pipeline.checked import Vouched, read_batches, read_part, read_row_groups, read_table
from pipeline.duck import open_duckdb, spill_beside
from pipeline.engine import Done, Task
from pipeline.hamming import Hashes, Pairs, band_keys, band_masks, pairs_in_band, resolve
from pipeline.identity import keyed_hash
from pipeline.ledger import LedgerConfig
from pipeline.outcome import Outcome, reject
from pipeline.steps.image_dedup_config import ImageDedupConfig
from pipeline.steps.judge import Survivors, judge, survivors_of
from pipeline.steps.step import Step, key_of
from pipeline.storage import parquet_writer, write_parquet
from pipeline.thumbnail import NUM_BYTES, look_alike

__all__ = ["VERSION", "ImageDedupConfig", "plan", "plan_clusters", "plan_near", "plan_pictures", "plan_same"]

VERSION = "image_dedup-2"
Place = tuple[Sequence[Done], Path]

_PICTURES = pa.schema(
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
_GONE = pa.schema(
    [
        pa.field("order", pa.uint64(), nullable=False),  # sorted by it: a staging shard reads its range
        pa.field("url_id", pa.binary(16), nullable=False),
        pa.field("kept", pa.binary(16), nullable=False),  # uid of a pair of the picture that stays
        pa.field("reason", pa.string(), nullable=False),
    ]
)
_PAIRS = pa.schema([pa.field("left", pa.uint64(), nullable=False), pa.field("right", pa.uint64(), nullable=False)])
_FACTS = ("url_id", "uid", "order", "original_width", "original_height", "sha256", "phash", "thumbnail")
_BEST_FIRST = [("pixels", "descending"), ("order", "ascending"), ("url_id", "ascending")]
_MAX_EQUAL = 1024
"""Of more pictures with one hash, all with other thumbnails, only the best are compared with others; the rest stay."""
_BLOCK = 1 << 12
"""Pairs whose thumbnails are compared at a time."""


# --- pictures: one row per picture, laid out for the exchange -------------------------------------


def plan_pictures(survivors: Survivors, config: ImageDedupConfig) -> Step:
    """One task per staging shard; none in mode off."""
    tasks = []
    for record in survivors[0] if config.mode != "off" else ():
        arguments = {"fetched": record.file(survivors[1], "fetched"), "config": to_mapping(config)}
        outputs = (f"{record.partition}.pictures.parquet",)
        key = key_of(VERSION, [record], config.mode, config.partitions)
        tasks.append(Task(partition=record.partition, work=_pictures, arguments=arguments, outputs=outputs, key=key))
    return Step(name="pictures", title="list pictures", tasks=tasks)


def _pictures(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    (path,) = outputs.values()
    config = from_mapping(ImageDedupConfig, arguments["config"])
    rows: dict[bytes, dict[str, Any]] = {}
    for batch in survivors_of(arguments["fetched"], _FACTS):
        for row in batch.to_pylist():
            known = rows.setdefault(row["url_id"], row)
            known["uid"] = min(known["uid"], row["uid"])
    for row in rows.values():
        row["pixels"] = row.pop("original_width") * row.pop("original_height")
        row["thumbnail"] = row["thumbnail"] if config.mode == "near" else None
    table = pa.Table.from_pylist(list(rows.values()), schema=_PICTURES)
    where = _partition(table, config)
    with parquet_writer(path, _PICTURES) as writer:
        for partition in range(config.partitions):  # row group i is of partition i, empty or not
            part = table.filter(pa.array(where == partition))
            writer.write_table(part, row_group_size=max(1, part.num_rows))
    return {"rows": table.num_rows}


def _partition(table: pa.Table, config: ImageDedupConfig) -> npt.NDArray[np.uint64]:
    """Equal files always meet; in mode near equal hashes do (an equal file has an equal hash; 0 says nothing)."""
    files = np.array([int(text[:16], 16) for text in table["sha256"].to_pylist()], np.uint64)
    phashes = table["phash"].to_numpy().astype(np.uint64)
    keys = np.where(phashes != 0, phashes, files) if config.mode == "near" else files
    return ((keyed_hash(0, keys) >> np.uint64(32)) * np.uint64(config.partitions)) >> np.uint64(32)


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


def plan_same(pictures: Place, config: ImageDedupConfig) -> Step:
    """One task per hash partition."""
    tasks = []
    files = [record.file(pictures[1], "pictures") for record in pictures[0]]
    key = key_of(VERSION, pictures[0], config.mode, config.partitions)
    for partition in range(config.partitions if files else 0):
        name = f"part-{partition:05d}"
        arguments = {"files": files, "partition": partition, "config": to_mapping(config)}
        outputs = (f"{name}.gone.parquet", f"{name}.winners.parquet")
        tasks.append(Task(partition=name, work=_same, arguments=arguments, outputs=outputs, key=f"{key}-{partition}"))
    return Step(name="same_pictures", title="find equal pictures", tasks=tasks)


def _same(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    gone_path, winners_path = outputs.values()
    config = from_mapping(ImageDedupConfig, arguments["config"])
    partition, near = arguments["partition"], config.mode == "near"

    def rows_in() -> Iterator[pa.RecordBatch]:
        for file in arguments["files"]:
            for group in read_row_groups(file, partition, config.partitions):
                yield from group.cast(_PICTURES).to_batches()

    rows = gone = by_hash_alone = 0
    with (
        open_duckdb(
            spill_beside(gone_path), memory_mb=config.memory_mb, streams={"pictures": (_PICTURES, rows_in())}
        ) as database,
        parquet_writer(gone_path, _GONE) as gone_file,
        parquet_writer(winners_path, _PICTURES) as winners_file,
    ):
        for batch in database.sql(_SAME.replace("$near", str(near))).to_arrow_reader(65_536):
            rows += batch.num_rows
            stays = pc.is_null(batch.column("kept"))
            lost = batch.filter(pc.invert(stays))
            gone += lost.num_rows
            of_hash = pc.equal(lost.column("reason"), "same_picture")
            by_hash_alone += pc.sum(pc.and_(of_hash, pc.is_null(lost.column("thumbnail")))).as_py() or 0
            if lost.num_rows:
                gone_file.write_batch(lost.select(_GONE.names).cast(_GONE))
            if near:
                won = batch.filter(pc.and_(stays, pc.not_equal(batch.column("phash"), pa.scalar(0, pa.uint64()))))
                empty = pa.array([""] * won.num_rows, pa.string())  # no longer needed
                columns = [empty if name == "sha256" else won.column(name) for name in _PICTURES.names]
                if won.num_rows:
                    winners_file.write_batch(pa.RecordBatch.from_arrays(columns, _PICTURES.names).cast(_PICTURES))
    return {"rows": rows, "gone": gone, "by_hash_alone": by_hash_alone}


# --- near_pictures: hashes that differ in a few bits ----------------------------------------------


def plan_near(same: Place, config: ImageDedupConfig) -> Step:
    """One task per band and key range; none but in mode near."""
    tasks = []
    files = [record.file(same[1], "winners") for record in same[0]] if config.mode == "near" else []
    key = key_of(VERSION, same[0], config.max_distance, config.ranges)
    for band, mask in enumerate(band_masks(config.max_distance) if files else ()):
        width = 1 << int(mask).bit_count()
        for part in range(config.ranges):
            name = f"band-{band:02d}-{part:04d}"
            first, last = part * width // config.ranges, (part + 1) * width // config.ranges - 1
            arguments = {
                "files": files,
                "band": band,
                "max_distance": config.max_distance,
                "first": first,
                "last": last,
            }
            outputs = (f"{name}.pairs.parquet",)
            tasks.append(
                Task(partition=name, work=_near, arguments=arguments, outputs=outputs, key=f"{key}-{band}-{part}")
            )
    return Step(name="near_pictures", title="find pictures that look alike", tasks=tasks)


def _near(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    (path,) = outputs.values()
    band, distance = arguments["band"], arguments["max_distance"]
    found = [np.empty(0, np.uint64)]
    for file in arguments["files"]:
        hashes = read_table(file, ["phash"])["phash"].to_numpy().astype(np.uint64)
        keys = band_keys(hashes, band, distance)
        found.append(hashes[(keys >= arguments["first"]) & (keys <= arguments["last"])])
    hashes = np.unique(np.concatenate(found))
    left, right = pairs_in_band(hashes, band, distance)
    order = np.lexsort((hashes[right], hashes[left]))
    table = pa.table([hashes[left[order]], hashes[right[order]]], schema=_PAIRS)
    return {"rows": len(hashes), "pairs": write_parquet(path, table, _PAIRS)}


def plan_clusters(near: Place, same: Place, config: ImageDedupConfig) -> Step:
    """One task over the pairs that look alike; none but in mode near."""
    arguments = {
        "pairs": [record.file(near[1], "pairs") for record in near[0]],
        "winners": [record.file(same[1], "winners") for record in same[0]],
    }
    task = Task(
        partition="all",
        work=_clusters,
        arguments=arguments,
        outputs=("all.gone.parquet",),
        key=key_of(VERSION, [*near[0], *same[0]]),
    )
    return Step(name="clusters", title="choose among pictures that look alike", tasks=[task] if near[0] else [])


def _clusters(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    (path,) = outputs.values()
    pairs = pa.concat_tables([read_table(file).cast(_PAIRS) for file in arguments["pairs"]])
    left, right = (pairs[name].to_numpy().astype(np.uint64) for name in _PAIRS.names)
    hashes = [left, right]
    for file in arguments["winners"]:
        found, counts = np.unique(read_table(file, ["phash"])["phash"].to_numpy(), return_counts=True)
        hashes.append(found[counts > 1].astype(np.uint64))  # equal ones are all in one file
    compared = np.unique(np.concatenate(hashes))
    parts = [_PICTURES.empty_table()]
    for file in arguments["winners"]:
        for batch in read_batches(file):
            keep = np.isin(batch.column("phash").to_numpy().astype(np.uint64), compared)
            parts.append(pa.Table.from_batches([batch.filter(pa.array(keep))]).cast(_PICTURES))
    winners = pa.concat_tables(parts).sort_by([("phash", "ascending"), *_BEST_FIRST])
    rank = np.empty(winners.num_rows, np.int64)
    rank[pc.sort_indices(winners, sort_keys=_BEST_FIRST).to_numpy()] = np.arange(winners.num_rows)
    unknown = winners["thumbnail"].is_null().to_numpy()
    kept_by = resolve(*_alike(winners, unknown, left, right), rank)
    lost = np.flatnonzero(kept_by != np.arange(winners.num_rows))
    by_hash_alone = int((unknown[lost] | unknown[kept_by[lost]]).sum())
    gone = pa.table(
        [
            winners["order"].take(pa.array(lost)),
            winners["url_id"].take(pa.array(lost)),
            winners["uid"].take(pa.array(kept_by[lost])),
            pa.array(["same_picture"] * len(lost), pa.string()),
        ],
        schema=_GONE,
    ).sort_by([("order", "ascending"), ("url_id", "ascending")])
    return {"rows": pairs.num_rows, "gone": write_parquet(path, gone, _GONE), "by_hash_alone": by_hash_alone}


def _alike(winners: pa.Table, unknown: npt.NDArray[np.bool_], left: Hashes, right: Hashes) -> Pairs:
    """Pairs of rows of `winners`, sorted by hash, whose hashes are equal or a pair of `left` and `right`.

    Of these, those whose thumbnails look alike or of which one is `unknown`.
    """
    filled = pc.fill_null(winners["thumbnail"], bytes(NUM_BYTES)).to_pylist()
    thumbnails = np.frombuffer(b"".join(filled), np.uint8).reshape(-1, NUM_BYTES)
    phashes = winners["phash"].to_numpy().astype(np.uint64)
    hashes, starts, counts = np.unique(phashes, return_index=True, return_counts=True)
    several = np.flatnonzero(counts > 1)
    one = np.concatenate([np.searchsorted(hashes, left), several])
    other = np.concatenate([np.searchsorted(hashes, right), several])
    ends = starts + np.minimum(counts, _MAX_EQUAL)
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for i, j in _row_pairs((starts[one], ends[one]), (starts[other], ends[other])):
        for first in range(0, len(i), _BLOCK):
            k, m = i[first : first + _BLOCK], j[first : first + _BLOCK]
            alike = look_alike(thumbnails[k], thumbnails[m]) | unknown[k] | unknown[m]
            parts.append((k[alike], m[alike]))
    return np.concatenate([k for k, _ in parts]), np.concatenate([m for _, m in parts])


def _row_pairs(left: Pairs, right: Pairs) -> Iterator[Pairs]:
    """Rows of the ranges left[p] with rows of right[p], for all p, some at a time; each pair of one range once."""
    widths = right[1] - right[0]
    sizes = (left[1] - left[0]) * widths
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):  # as many as have _BLOCK pairs, at least one
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _BLOCK, "right")))
        p = np.repeat(np.arange(first, last), sizes[first:last])
        within = np.arange(len(p)) - np.repeat(ends[first:last] - sizes[first:last] - done, sizes[first:last])
        i, j = left[0][p] + within // widths[p], right[0][p] + within % widths[p]
        each = (left[0][p] != right[0][p]) | (i < j)
        yield i[each], j[each]
        first = last


# --- image_dedup: what that means for each pair ---------------------------------------------------


def plan(survivors: Survivors, same: Place, clusters: Place, config: ImageDedupConfig, ledger: LedgerConfig) -> Step:
    """One task per staging shard; none in mode off."""
    tasks = []
    files = [record.file(place[1], "gone") for place in (same, clusters) for record in place[0]]
    for record in survivors[0] if config.mode != "off" else ():
        name = record.partition
        arguments = {
            "fetched": record.file(survivors[1], "fetched"),
            "gone": files,
            "ledger": to_mapping(ledger),
        }
        outputs = (f"{name}.fetched.parquet", f"{name}.rejections.parquet")
        key = key_of(VERSION, [record, *same[0], *clusters[0]], ledger)
        tasks.append(Task(partition=name, work=_work, arguments=arguments, outputs=outputs, key=key))
    return Step(name="image_dedup", title="drop pictures that are there already", tasks=tasks)


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    def decide(batch: pa.RecordBatch) -> Outcome:
        gone = _gone(arguments["gone"], batch.column("order")) if batch.num_rows else {}
        reasons: list[str | None] = []
        details: list[str | None] = []
        for url_id in batch.column("url_id").to_pylist():
            kept, reason = gone.get(url_id, (None, None))
            reasons.append(reason)
            details.append(None if kept is None else kept.hex())
        return reject(
            batch, stage="image_dedup", reasons=pa.array(reasons, pa.string()), details=pa.array(details, pa.string())
        )

    return judge("image_dedup", arguments, outputs, decide)


def _gone(files: Sequence[Vouched], orders: pa.Array) -> dict[bytes, tuple[bytes, str]]:
    """url_id -> (kept uid, reason) of the pictures in this range of `order` that go."""
    span = pc.min_max(orders)
    found: dict[bytes, tuple[bytes, str]] = {}
    for file in files:
        table = read_part(file, [("order", ">=", span["min"]), ("order", "<=", span["max"])])
        columns = (table[column].to_pylist() for column in ("url_id", "kept", "reason"))
        found.update((url_id, (kept, reason)) for url_id, kept, reason in zip(*columns, strict=True))
    return found
