"""The 64 bits that edges' hashes are drawn from, and the types of the arrays that hold them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["LARGEST", "SPAN", "Hashes", "Ids", "Longs", "Shares", "span_of"]

Hashes = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]

LARGEST = np.uint64(0xFFFFFFFFFFFFFFFF)
SPAN = 2.0**64
"""How many hashes there are."""


def span_of(reach: Hashes | None, queries: Longs) -> Shares:
    """float64[K]: how far the hashes of `queries` (int64[K]) go: to their `reach` (uint64[Q]), or over all 64 bits."""
    return np.full(len(queries), SPAN) if reach is None else reach[queries].astype(np.float64)
