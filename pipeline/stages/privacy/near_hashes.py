"""Which of many 256-bit hashes lie near one: by their 16 words of 16 bits.

Of two hashes that differ in at most 31 bits, one of 16 words differs in one bit at most, or they would differ in 32.
So a hash that lies near has such a word, and only those that share one are compared whole. Norouzi, Punjani and Fleet,
"Fast Search in Hamming Space with Multi-Index Hashing" (2012).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["NearHashes"]

_WORDS = 16
_LARGEST_INDEXED = 31
_FLIPS = np.array([0, *(1 << bit for bit in range(16))], np.int64)


class NearHashes:
    """Finds hashes of 32 bytes within a distance."""

    def __init__(self, hashes: Sequence[bytes], max_distance: int) -> None:
        self._max_distance = max_distance
        self._longs: npt.NDArray[np.uint64] = np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 4)
        words = np.frombuffer(b"".join(hashes), np.uint16).reshape(-1, _WORDS)
        self._orders = [np.argsort(words[:, i], kind="stable").astype(np.int32) for i in range(_WORDS)]
        self._starts = [
            np.searchsorted(words[order, i], np.arange((1 << 16) + 1)).astype(np.int64)
            for i, order in enumerate(self._orders)
        ]

    def find(self, digest: bytes) -> int | None:
        """The place in the list of a hash within the distance, the nearest; None for none."""
        asked = np.frombuffer(digest, np.uint64)
        near = self._candidates(np.frombuffer(digest, np.uint16).astype(np.int64))
        if not len(near):
            return None
        distances = np.bitwise_count(self._longs[near] ^ asked).sum(axis=1)
        nearest = int(distances.argmin())
        return int(near[nearest]) if distances[nearest] <= self._max_distance else None

    def _candidates(self, words: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        if self._max_distance > _LARGEST_INDEXED:
            return np.arange(len(self._longs), dtype=np.int32)
        found = []
        for starts, order, word in zip(self._starts, self._orders, words, strict=True):
            alike = word ^ _FLIPS
            begins, ends = starts[alike], starts[alike + 1]
            found += [order[begins[i] : ends[i]] for i in np.flatnonzero(ends > begins)]
        return np.unique(np.concatenate(found)) if found else np.empty(0, np.int32)
