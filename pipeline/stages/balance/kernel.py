"""The compiled loops of balance: hash every edge, and compare it with its query's window or threshold.

The hash is `identity.keyed_hash`, spelled out for one value at a time; a test holds the two equal. Unsigned arithmetic
wraps, as in C.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled.declare import inlined, kernel

__all__ = ["Edges", "Hash", "Near", "Windows", "compare", "find_near"]

Hashes = npt.NDArray[np.uint64]

_A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_C, _D = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_S33 = np.uint64(33)


class Edges(NamedTuple):
    """Rows and their queries, as in an Arrow list column: row i owns the edges offsets[i]..offsets[i + 1]."""

    offsets: npt.NDArray[np.int32]
    queries: npt.NDArray[np.int32]
    ids: Hashes
    """Of the rows."""
    query_hashes: Hashes
    """uint64[Q]."""


class Hash(NamedTuple):
    """How an edge is hashed."""

    state: np.uint64
    """`identity.keyed_state` of the seed."""
    per_pair: bool
    """Whether the query is left out of the hash."""


class Windows(NamedTuple):
    """uint64[Q] each: from where to where hashes are near their query's threshold."""

    lows: Hashes
    highs: Hashes


class Near(NamedTuple):
    """Row, query and hash of edges that are near; with room for every edge."""

    rows: npt.NDArray[np.int64]
    queries: npt.NDArray[np.int32]
    hashes: Hashes


@inlined
def _mix(x: np.uint64) -> np.uint64:
    x = np.uint64(x ^ (x >> _S33))
    x = np.uint64(x * _C)
    x = np.uint64(x ^ (x >> _S33))
    x = np.uint64(x * _D)
    return np.uint64(x ^ (x >> _S33))


@kernel
def compare(edges: Edges, key: Hash, limits: Hashes, verdicts: npt.NDArray[np.uint8]) -> int:
    """Set verdicts uint8[E] to 1 below the query's limit (uint64[Q]), 2 at it, 0 above; returns how many are at it."""
    offsets, queries, ids, query_hashes = edges
    state, per_pair = key
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
def find_near(edges: Edges, key: Hash, windows: Windows, below: npt.NDArray[np.int64], near: Near) -> int:
    """Collect the edges with lows[q] <= hash <= highs[q] in `near`; returns how many.

    Queries with highs < lows are passed over; for the others below[q] is increased by the edges under lows[q].
    """
    offsets, queries, ids, query_hashes = edges
    state, per_pair = key
    lows, highs = windows
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
                near.rows[count] = i
                near.queries[count] = q
                near.hashes[count] = h
                count += 1
    return count
