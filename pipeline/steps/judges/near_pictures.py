"""near_pictures, clusters: which pictures look alike, and who of them goes, over the whole set.

    winners of same_pictures --near_pictures--> pairs (per band and key range) --clusters, by thumbnail--> losers

Hashes find the pairs, thumbnails decide (`pipeline.pictures.thumbnail`). Facts of before there were thumbnails are
judged by their hashes alone; the done-records count what goes so (`by_hash_alone`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine import Data, Info, Needs, Task, output
from pipeline.pictures.hamming import Hashes, Pairs, band_keys, band_masks, pairs_in_band, resolve
from pipeline.pictures.thumbnail import NUM_BYTES, look_alike
from pipeline.steps.judges.image_dedup_config import ImageDedupConfig
from pipeline.steps.judges.same_pictures import GONE, PICTURES, Equal, Gone
from pipeline.steps.step import Run, step
from pipeline.storage.checked import read_batches, read_table
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import write_parquet

__all__ = ["AlikePairs", "ChooseAlike", "FindAlike", "choose_alike", "find_alike"]

_PAIRS = pa.schema([pa.field("left", pa.uint64(), nullable=False), pa.field("right", pa.uint64(), nullable=False)])
_BEST_FIRST = [("pixels", "descending"), ("order", "ascending"), ("url_id", "ascending")]
_MAX_EQUAL = 1024
"""Of more pictures with one hash, all with other thumbnails, only the best are compared with others; the rest stay."""
_BLOCK = 1 << 12
"""Pairs whose thumbnails are compared at a time."""


# --- near_pictures: hashes that differ in a few bits ----------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AlikePairs:
    """Pairs of hashes."""

    pairs: Location = output("pairs.parquet", _PAIRS)


@dataclass(frozen=True, kw_only=True)
class FindAlike(Task[AlikePairs]):
    """The pairs that a band finds among keys from `first` to `last`."""

    winners: Files
    band: int
    max_distance: int
    first: int
    last: int

    version = 2

    def work(self, out: AlikePairs) -> Info:
        found = [np.empty(0, np.uint64)]
        for file in self.winners:
            hashes = read_table(file, ["phash"])["phash"].to_numpy().astype(np.uint64)
            keys = band_keys(hashes, self.band, self.max_distance)
            found.append(hashes[(keys >= self.first) & (keys <= self.last)])
        hashes = np.unique(np.concatenate(found))
        left, right = pairs_in_band(hashes, self.band, self.max_distance)
        order = np.lexsort((hashes[right], hashes[left]))
        table = pa.table([hashes[left[order]], hashes[right[order]]], schema=_PAIRS)
        return {"rows": len(hashes), "pairs": write_parquet(out.pairs.local, table, _PAIRS)}


@step("near_pictures", FindAlike, title="find pictures that look alike", per="band, key range")
def find_alike(run: Run, equal: Data[Equal], config: ImageDedupConfig) -> Iterator[FindAlike]:
    """One task per band and key range."""
    winners = equal.files(lambda out: out.winners)
    for band, mask in enumerate(band_masks(config.max_distance) if winners else ()):
        width = 1 << int(mask).bit_count()
        for part in range(config.ranges):
            yield FindAlike(
                partition=f"band-{band:02d}-{part:04d}",
                winners=winners,
                band=band,
                max_distance=config.max_distance,
                first=part * width // config.ranges,
                last=(part + 1) * width // config.ranges - 1,
            )


# --- clusters: who goes for whom ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ChooseAlike(Task[Gone]):
    """Of the pictures that look alike, those that go."""

    pairs: Files
    winners: Files

    version = 2
    needs = Needs(memory_mb=1500)

    def work(self, out: Gone) -> Info:
        pairs = pa.concat_tables([read_table(file).cast(_PAIRS) for file in self.pairs])
        left, right = (pairs[name].to_numpy().astype(np.uint64) for name in _PAIRS.names)
        hashes = [left, right]
        for file in self.winners:
            found, counts = np.unique(read_table(file, ["phash"])["phash"].to_numpy(), return_counts=True)
            hashes.append(found[counts > 1].astype(np.uint64))  # equal ones are all in one file
        compared = np.unique(np.concatenate(hashes))
        parts = [PICTURES.empty_table()]
        for file in self.winners:
            for batch in read_batches(file):
                keep = np.isin(batch.column("phash").to_numpy().astype(np.uint64), compared)
                parts.append(pa.Table.from_batches([batch.filter(pa.array(keep))]).cast(PICTURES))
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
            schema=GONE,
        ).sort_by([("order", "ascending"), ("url_id", "ascending")])
        return {
            "rows": pairs.num_rows,
            "gone": write_parquet(out.gone.local, gone, GONE),
            "by_hash_alone": by_hash_alone,
        }


@step("clusters", ChooseAlike, title="choose among pictures that look alike", per="set")
def choose_alike(run: Run, pairs: Data[AlikePairs], equal: Data[Equal]) -> Iterator[ChooseAlike]:
    """One task over the pairs that look alike."""
    files = pairs.files(lambda out: out.pairs)
    if files:
        yield ChooseAlike(partition="all", pairs=files, winners=equal.files(lambda out: out.winners))


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
