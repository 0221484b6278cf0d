"""The compiled loops of balance: hash every edge, and compare it with its query's window or threshold.

The hash is `identity.keyed_hash`, spelled out for one value at a time; a test holds the two equal. Arrays are
those of an Arrow list column: row i owns the edges offsets[i]..offsets[i + 1]. Unsigned arithmetic wraps, as in C.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.compiled.declare import inlined, kernel

__all__ = ["compare", "find_near"]

Hashes = npt.NDArray[np.uint64]

_A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_C, _D = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_S33 = np.uint64(33)


@inlined
def _mix(x: np.uint64) -> np.uint64:
    x = np.uint64(x ^ (x >> _S33))
    x = np.uint64(x * _C)
    x = np.uint64(x ^ (x >> _S33))
    x = np.uint64(x * _D)
    return np.uint64(x ^ (x >> _S33))


@kernel
def compare(
    offsets: npt.NDArray[np.int32],
    queries: npt.NDArray[np.int32],
    ids: Hashes,
    query_hashes: Hashes,
    state: np.uint64,
    per_pair: bool,
    limits: Hashes,
    verdicts: npt.NDArray[np.uint8],
) -> int:
    """Set verdicts uint8[E] to 1 below the query's limit, 2 at it, 0 above; returns how many are at it.

    `limits` is uint64[Q]; `per_pair` leaves the query out of the hash.
    """
    ties = 0
    for i in range(len(offsets) - 1):
        base = _mix(np.uint64(ids[i] * _A + state))
        for j in range(offsets[i], offsets[i + 1]):
            q = queries[j]
            h = base
            if not per_pair:
                h = _mix(np.uint64(base ^ np.uint64(query_hashes[q] * _B + state)))
            if h < limits[q]:
                verdicts[j] = 1
            elif h == limits[q]:
                verdicts[j] = 2
                ties += 1
            else:
                verdicts[j] = 0
    return ties


@kernel
def find_near(
    offsets: npt.NDArray[np.int32],
    queries: npt.NDArray[np.int32],
    ids: Hashes,
    query_hashes: Hashes,
    state: np.uint64,
    per_pair: bool,
    lows: Hashes,
    highs: Hashes,
    below: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    near_queries: npt.NDArray[np.int32],
    near_hashes: Hashes,
) -> int:
    """Collect the edges with lows[q] <= hash <= highs[q]; returns how many.

    Row, query and hash of each go to the last three arrays, which have room for every edge. Queries with
    highs < lows are passed over; for the others below[q] is increased by the edges under lows[q].
    """
    count = 0
    for i in range(len(offsets) - 1):
        base = _mix(np.uint64(ids[i] * _A + state))
        for j in range(offsets[i], offsets[i + 1]):
            q = queries[j]
            if highs[q] < lows[q]:
                continue
            h = base
            if not per_pair:
                h = _mix(np.uint64(base ^ np.uint64(query_hashes[q] * _B + state)))
            if h < lows[q]:
                below[q] += 1
            elif h <= highs[q]:
                rows[count] = i
                near_queries[count] = q
                near_hashes[count] = h
                count += 1
    return count
