"""The compiled loops of the samplings, over samples and the queries of each.

The hash is `identity.keyed_hash`, spelled out for one value at a time; a test holds the two equal. Unsigned arithmetic
wraps, as in C. Gains are whole numbers, so that every machine chooses alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled.declare import inlined, kernel

__all__ = ["UNIT", "Queries", "add_counts", "choose_diverse", "expect", "gather", "mark_kept", "number_anew"]

Longs = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]

UNIT = 1 << 29
"""What gains count as 1. A gain is at most 2, so that it, a place of 32 bits and a sign fit into an int64."""

_A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_C, _D = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_S33 = np.uint64(33)
_LEVEL = 14
"""Bits of a gain that are within a level: 65,537 levels."""
_PLACES = 32
_LAST_PLACE = (1 << _PLACES) - 1


class Queries(NamedTuple):
    """The queries of samples: those of sample i end at ends[i], and start where those of the one before end."""

    ends: Longs
    queries: Ids


@inlined
def _mix(x: np.uint64) -> np.uint64:
    x = np.uint64(x ^ (x >> _S33))
    x = np.uint64(x * _C)
    x = np.uint64(x ^ (x >> _S33))
    x = np.uint64(x * _D)
    return np.uint64(x ^ (x >> _S33))


@kernel
def add_counts(queries: Ids, counts: Longs) -> None:
    """Add to `counts` int64[Q] how often each of `queries` int32[M] comes."""
    for query in queries:
        counts[query] += 1


@kernel
def expect(first: int, of: Queries, shares: npt.NDArray[np.float64], chances: npt.NDArray[np.float64]) -> float:
    """Set `chances` float64[K]: that at least one of its queries draws it, of each sample from `first` on.

    Returns their sum, added up in order, so that it is the same on every machine. `shares` float64[Q]: that a query
    draws a sample.
    """
    total = 0.0
    for k in range(len(chances)):
        i = first + k
        missed = 1.0
        for j in range(of.ends[i - 1] if i else 0, of.ends[i]):
            missed *= 1.0 - shares[of.queries[j]]
        chances[k] = 1.0 - missed
        total += 1.0 - missed
    return total


@kernel
def mark_kept(
    samples: Longs,
    of: Queries,
    uids: npt.NDArray[np.uint64],
    limits: npt.NDArray[np.uint64],
    state: np.uint64,
    kept: npt.NDArray[np.bool_],
) -> int:
    """Set `kept` bool[K] for the `samples` int64[K] that at least one of their queries draws; returns how many.

    A query draws a sample whose hash of (seed, uid, query) is at most its own one of `limits` uint64[Q]; `state` is
    `identity.keyed_state` of the seed. `of` and `uids` uint64[N] are of all samples.
    """
    count = 0
    for k in range(len(samples)):
        i = samples[k]
        base = _mix(np.uint64(uids[i] * _A + state))
        found = False
        for j in range(of.ends[i - 1] if i else 0, of.ends[i]):
            query = of.queries[j]
            if _mix(np.uint64(base ^ np.uint64(np.uint64(query) * _B + state))) <= limits[query]:
                found = True
                break
        kept[k] = found
        count += found
    return count


@kernel
def gather(samples: Longs, of: Queries) -> Queries:
    """The queries of `samples` int64[K], laid end to end."""
    starts, ends = np.empty(len(samples), np.int64), np.empty(len(samples), np.int64)
    total = 0
    for k in range(len(samples)):
        i = samples[k]
        starts[k] = of.ends[i - 1] if i else 0
        total += of.ends[i] - starts[k]
        ends[k] = total
    queries = np.empty(total, np.int32)
    place = 0
    for k in range(len(samples)):
        ahead = starts[k] - place
        while place < ends[k]:
            queries[place] = of.queries[ahead + place]
            place += 1
    return Queries(ends, queries)


@kernel
def number_anew(of: Queries, num_queries: int) -> tuple[Queries, Longs]:
    """The same with the queries numbered by where each comes first, and int64[D], how often each comes: tables over
    them are small enough for the processor's own memory."""
    numbers = np.full(num_queries, -1, np.int32)
    queries = np.empty(len(of.queries), np.int32)
    counts = np.zeros(min(num_queries, len(queries)), np.int64)
    distinct = 0
    for j in range(len(queries)):
        query = of.queries[j]
        if numbers[query] < 0:
            numbers[query] = distinct
            distinct += 1
        queries[j] = numbers[query]
        counts[queries[j]] += 1
    return Queries(of.ends, queries), counts[:distinct]


@inlined
def _gain(of: Queries, i: int, worth: Longs) -> int:
    """The mean of what the queries of sample i are worth, in UNITs, rounded down."""
    start = of.ends[i - 1] if i else 0
    gain = 0
    for j in range(start, of.ends[i]):
        gain += int(worth[of.queries[j]])
    return gain // max(int(of.ends[i] - start), 1)


@inlined
def _sink(heap: Longs, size: int, place: int, key: int) -> None:
    """Put `key` at `place` of a heap whose largest is first, or below it where what stands there is larger."""
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= key:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = key


@kernel
def choose_diverse(of: Queries, counts: Longs, cap: int, batch: int) -> Longs:
    """int64[batch]: samples, each the one of the largest gain when it is chosen, of equal ones the first.

    The gain of a sample is the mean of what its queries are worth: of query q, of which n samples are chosen already,
    (cap - n) / cap + 1 / counts[q], and nothing from n = cap on. `counts` int64[Q]: the samples that contain q.

    Chosen samples only lower the gains of others. So one whose gain is still what it was when it was last looked at is
    the best of all, and the others' need not be known (Minoux 1978, "Accelerated greedy algorithms"). Samples wait in
    levels of about the same gain; those of the highest level stand in a heap.
    """
    size = len(of.ends)
    worth = np.zeros(len(counts), np.int64)
    for query in range(len(counts)):
        worth[query] = UNIT + UNIT // max(counts[query], 1)
    room = np.full(len(counts), cap, np.int32)
    level = (2 * UNIT >> _LEVEL) + 1
    firsts, nexts = np.full(level, -1, np.int32), np.empty(size, np.int32)
    for i in range(size - 1, -1, -1):
        lower = _gain(of, i, worth) >> _LEVEL
        nexts[i], firsts[lower] = firsts[lower], i
    heap = np.empty(size, np.int64)
    in_heap = 0
    chosen = np.empty(batch, np.int64)
    taken = 0
    while taken < batch:
        if in_heap == 0:
            level -= 1
            i = firsts[level]
            while i >= 0:
                after = nexts[i]
                gain = _gain(of, i, worth)
                lower = gain >> _LEVEL
                if lower == level:
                    heap[in_heap] = (gain << _PLACES) | (_LAST_PLACE - i)
                    in_heap += 1
                else:
                    nexts[i], firsts[lower] = firsts[lower], i
                i = after
            for place in range(in_heap // 2 - 1, -1, -1):
                _sink(heap, in_heap, place, heap[place])
            continue
        i = _LAST_PLACE - (heap[0] & _LAST_PLACE)
        gain = _gain(of, i, worth)
        key = (gain << _PLACES) | (_LAST_PLACE - i)
        lower = gain >> _LEVEL
        if key == heap[0]:
            chosen[taken] = i
            taken += 1
            for j in range(of.ends[i - 1] if i else 0, of.ends[i]):
                query = of.queries[j]
                if room[query] > 0:
                    room[query] -= 1
                    worth[query] = UNIT * room[query] // cap + UNIT // counts[query] if room[query] > 0 else 0
        elif lower == level:
            _sink(heap, in_heap, 0, key)
            continue
        else:
            nexts[i], firsts[lower] = firsts[lower], i
        in_heap -= 1
        _sink(heap, in_heap, 0, heap[in_heap])
    return chosen
