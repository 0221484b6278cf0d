"""Which of many 256-bit hashes lie near one: by their 16 words of 16 bits.

Of two hashes that differ in at most 31 bits, one of 16 words differs in one bit at most, or they would differ in 32.
So a hash that lies near has such a word, and only those that share one are compared whole. Norouzi, Punjani and Fleet,
"Fast Search in Hamming Space with Multi-Index Hashing" (2012).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["NearHashes"]

Longs = npt.NDArray[np.uint64]
_WORDS = 16
_LARGEST_INDEXED = 31
_VALUES = np.arange((1 << 16) + 1)
_FLIPS = np.array([0, *(1 << bit for bit in range(16))], np.int64)


class NearHashes:
    """Finds hashes of 32 bytes within a distance. Takes 96 bytes a hash."""

    def __init__(self, hashes: Sequence[bytes], max_distance: int) -> None:
        self._max_distance = max_distance
        joined = b"".join(hashes)
        self._longs: Longs = np.frombuffer(joined, np.uint64).reshape(-1, 4)
        words = np.frombuffer(joined, np.uint16).reshape(-1, _WORDS)
        orders = [np.argsort(words[:, i], kind="stable").astype(np.int32) for i in range(_WORDS)]
        starts = [np.searchsorted(words[order, i], _VALUES) + i * len(words) for i, order in enumerate(orders)]
        self._orders = np.concatenate(orders)
        """int32[16 * N]: for each word, the hashes in the order of its value."""
        self._starts = np.concatenate(starts)
        """int64[16 * (2^16 + 1)]: for each word, where in `_orders` each value begins."""

    def find(self, digests: bytes) -> int | None:
        """The place in the list of a hash that lies within the distance of any of `digests` (of 32 bytes each), the
        nearest; None for none."""
        places, owners = self._candidates(np.frombuffer(digests, np.uint16).reshape(-1, _WORDS))
        if not len(places):
            return None
        asked = np.frombuffer(digests, np.uint64).reshape(-1, 4)
        distances = np.bitwise_count(self._longs[places] ^ asked[owners]).sum(axis=1)
        nearest = int(distances.argmin())
        return int(places[nearest]) if distances[nearest] <= self._max_distance else None

    def _candidates(self, words: npt.NDArray[np.uint16]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """(places in the list, rows of `words` that each may lie near)."""
        if self._max_distance > _LARGEST_INDEXED:
            count = len(self._longs)
            return np.tile(np.arange(count), len(words)), np.repeat(np.arange(len(words)), count)
        alike = (words.astype(np.int64)[:, :, None] ^ _FLIPS) + (np.arange(_WORDS) * len(_VALUES))[:, None]
        begins, counts = self._starts[alike].ravel(), (self._starts[alike + 1] - self._starts[alike]).ravel()
        before = np.cumsum(counts) - counts
        positions = np.repeat(begins - before, counts) + np.arange(int(counts.sum()))
        owners = np.repeat(np.arange(len(words)), counts.reshape(len(words), -1).sum(axis=1))
        return self._orders[positions], owners
