"""Pictures that look alike: pairs of 64-bit perceptual hashes within a Hamming distance, and which to keep.

    hashes --find_pairs, band by band--> pairs within max_distance --resolve by rank--> kept, or dropped for whom

Two hashes that differ in at most d bits agree in full on one of d + 1 bands of bits, so only hashes that share
a band are compared; a pair is reported in the first band that it shares. Large runs of one band are cut again
by the bits that are left. Exact: no pair within the distance is missed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

__all__ = [
    "Hashes",
    "Pairs",
    "band_keys",
    "band_masks",
    "distances",
    "find_matches",
    "find_pairs",
    "pairs_in_band",
    "resolve",
]

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
Pairs = tuple[Indices, Indices]

_SMALL_RUN = 2048
"""Runs up to this length are compared all with all; longer ones are cut by another band first."""
_BLOCK = 1 << 22
"""Comparisons in memory at a time."""


def distances(left: Hashes, right: Hashes) -> npt.NDArray[np.uint8]:
    """Hamming distances, elementwise after broadcasting: uint8, 0 to 64."""
    return np.asarray(np.bitwise_count(left ^ right), np.uint8)


def band_masks(max_distance: int, bits: Sequence[int] = range(64)) -> list[np.uint64]:
    """`bits` cut into max_distance + 1 bands of nearly equal width, each as a mask; fewer if the bits run out."""
    bands = min(max_distance + 1, len(bits))
    edges = [i * len(bits) // bands for i in range(bands + 1)]
    return [np.uint64(sum(1 << bit for bit in bits[a:b])) for a, b in itertools.pairwise(edges)]


def band_keys(hashes: Hashes, band: int, max_distance: int) -> Hashes:
    """The bits of one band, moved to the lowest place: equal ranges of them cut a band's work into tasks."""
    mask = int(band_masks(max_distance)[band])
    shift = (mask & -mask).bit_length() - 1
    return (hashes & np.uint64(mask)) >> np.uint64(shift)


def find_pairs(hashes: Hashes, max_distance: int) -> Pairs:
    """Indices (i, j), each pair once, of all pairs of `hashes` uint64[N] at most `max_distance` bits apart."""
    return _joined(pairs_in_band(hashes, band, max_distance) for band in range(len(band_masks(max_distance))))


def pairs_in_band(hashes: Hashes, band: int, max_distance: int) -> Pairs:
    """Those pairs of `find_pairs` whose first shared band is `band`. Together the bands give every pair once."""
    found = list(_search(hashes, np.arange(len(hashes)), list(range(64)), [], max_distance, only=band))
    return _joined(found)


def _joined(parts: Iterator[Pairs] | list[Pairs]) -> Pairs:
    lefts, rights = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for left, right in parts:
        lefts.append(left)
        rights.append(right)
    return np.concatenate(lefts), np.concatenate(rights)


def _search(
    hashes: Hashes, index: Indices, bits: list[int], shared: list[np.uint64], max_distance: int, only: int | None = None
) -> Iterator[Pairs]:
    """Pairs among `hashes[index]` that share none of the masks in `shared`; all agree outside of `bits`."""
    masks = band_masks(max_distance, bits)
    for band, mask in enumerate(masks):
        if only is not None and band != only:
            continue
        skip = shared + masks[:band]
        values = hashes[index]
        if any(((values ^ values[:1]) & m == 0).all() for m in skip):
            continue  # every pair here shares an earlier band: found there
        rest = [bit for bit in bits if not int(mask) >> bit & 1]
        keys = values & mask
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(order) else np.empty(0, np.int64)
        lengths = np.diff(np.r_[starts, len(order)])
        short = (lengths > 1) & (lengths <= 8)
        yield _neighbours(hashes, index[order], starts[short], lengths[short], skip, max_distance)
        for start, length in zip(starts[lengths > 8].tolist(), lengths[lengths > 8].tolist(), strict=True):
            run = index[order[start : start + length]]
            if length > _SMALL_RUN and rest:
                yield from _search(hashes, run, rest, skip, max_distance)
            else:
                yield from _all_with_all(hashes, run, skip, max_distance)


def _neighbours(
    hashes: Hashes, index: Indices, starts: Indices, lengths: Indices, skip: list[np.uint64], max_distance: int
) -> Pairs:
    """Compare within many short runs at once: first with second, second with third, first with third ..."""
    parts = []
    for step in range(1, int(lengths.max(initial=1))):
        for place in range(int(lengths.max()) - step):
            left = index[starts[lengths > place + step] + place]
            right = index[starts[lengths > place + step] + place + step]
            near = _near(hashes[left], hashes[right], skip, max_distance)
            parts.append((left[near], right[near]))
    return _joined(parts)


def _all_with_all(hashes: Hashes, run: Indices, skip: list[np.uint64], max_distance: int) -> Iterator[Pairs]:
    rows = max(1, _BLOCK // len(run))
    values = hashes[run]
    for first in range(0, len(run), rows):
        near = _near(values[first : first + rows, None], values[None, first:], skip, max_distance)
        left, right = np.nonzero(np.triu(near, 1))
        yield run[first + left], run[first + right]


def _near(left: Hashes, right: Hashes, skip: list[np.uint64], max_distance: int) -> npt.NDArray[np.bool_]:
    differing = left ^ right
    near = np.asarray(np.bitwise_count(differing) <= max_distance)
    for mask in skip:
        near &= (differing & mask) != 0
    return near


def find_matches(left: Hashes, right: Hashes, max_distance: int) -> Pairs:
    """Indices (i, j), each pair once, with `left[i]` and `right[j]` at most `max_distance` bits apart."""
    parts = []
    masks = band_masks(max_distance)
    for band, mask in enumerate(masks):
        order = np.argsort(right & mask, kind="stable")
        keys = (right & mask)[order]
        begins = np.searchsorted(keys, left & mask, "left")
        counts = np.searchsorted(keys, left & mask, "right") - begins
        ends = np.cumsum(counts)
        first = 0
        while first < len(left):  # as many of `left` as have _BLOCK candidates, at least one
            done = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, done + _BLOCK, "right")))
            rows = np.repeat(np.arange(first, last), counts[first:last])
            within = np.arange(len(rows)) - np.repeat(ends[first:last] - counts[first:last] - done, counts[first:last])
            columns = order[begins[rows] + within]
            near = _near(left[rows], right[columns], masks[:band], max_distance)
            parts.append((rows[near], columns[near]))
            first = last
    return _joined(parts)


def resolve(left: Indices, right: Indices, rank: Indices) -> Indices:
    """For each of N pictures the index of the one that is kept in its place: itself where it is kept.

    `left`, `right` int64[P] are the pairs that look alike, `rank` int64[N] distinct, the lowest the best. Best
    first, a picture is kept unless one that is kept already looks like it. So no two kept ones look alike, and
    every dropped one looks like the one that is named for it: nothing is lost through a chain of likenesses.
    """
    kept_by = np.arange(len(rank))
    left, right = np.asarray(left, np.int64), np.asarray(right, np.int64)
    swap = rank[left] > rank[right]
    better, worse = np.where(swap, right, left), np.where(swap, left, right)
    kept, dropped = np.zeros(len(rank), bool), np.zeros(len(rank), bool)
    waiting_better, waiting_worse = better, worse
    while len(waiting_better):
        blocked = np.zeros(len(rank), bool)
        blocked[waiting_worse] = True
        kept[waiting_better[~blocked[waiting_better]]] = True
        dropped[waiting_worse[kept[waiting_better]]] = True
        still = ~(kept[waiting_better] | dropped[waiting_better] | dropped[waiting_worse])
        waiting_better, waiting_worse = waiting_better[still], waiting_worse[still]
    reason = ~dropped[better]
    best = np.full(len(rank), np.iinfo(np.int64).max)
    np.minimum.at(best, worse[reason], rank[better[reason]])
    by_rank = np.argsort(rank)
    lost = np.flatnonzero(dropped)
    kept_by[lost] = by_rank[np.searchsorted(rank[by_rank], best[lost])]
    return kept_by
