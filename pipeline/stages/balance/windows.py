"""Where the threshold of a head query must lie, told from its count alone: hashes are uniform."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.stages.balance.hashes import LARGEST, SPAN, Hashes, Longs, span_of

__all__ = ["Windows", "find_windows", "unbounded"]

_SIGMAS = 6.0


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Per query, where to look for its threshold: lows <= hash <= highs; highs < lows where none is needed."""

    lows: Hashes
    """uint64[Q]"""
    highs: Hashes
    """uint64[Q]"""

    @property
    def needed(self) -> npt.NDArray[np.bool_]:
        """bool[Q]: which queries have a window."""
        return self.highs >= self.lows


def find_windows(counts: Longs, limit: int, reach: Hashes | None = None) -> Windows:
    """Where the `limit`-th smallest of each query's `counts` (int64[Q]) hashes will be.

    Hashes are uniform on 0..`reach` (uint64[Q], default: all of the 64 bits). Queries with at most `limit`
    edges need no threshold.
    """
    windows = unbounded(len(counts), np.empty(0, np.int64))
    head = np.flatnonzero(counts > limit)
    span = span_of(reach, head)
    deviation = _SIGMAS * math.sqrt(limit)
    first = np.maximum(limit - deviation, 0) / counts[head] * span
    last = (limit + deviation + _SIGMAS**2) / counts[head] * span
    windows.lows[head] = first.astype(np.uint64)
    inside = last < SPAN - 2048  # the largest float below 2^64
    windows.highs[head] = np.where(inside, last, 0).astype(np.uint64)
    windows.highs[head[~inside]] = LARGEST
    return windows


def unbounded(size: int, queries: Longs) -> Windows:
    """Windows over `size` queries that hold every edge of `queries` (int64[K]) and none of the others."""
    windows = Windows(lows=np.ones(size, np.uint64), highs=np.zeros(size, np.uint64))
    windows.lows[queries], windows.highs[queries] = 0, LARGEST
    return windows
