"""The order of training samples: a function of (seed, epoch, position), with one integer of state.

    position (0, 1, 2, ... over the whole run)
        -> epoch = position // N, place = position % N
        -> sample = permute(place; seed, epoch)

A global batch is a run of consecutive positions, and a rank takes a contiguous part of it, so every
world size sees the same global batches, and a stopped run goes on from `samples_seen` alone.
A batch may span two epochs; every sample still comes exactly once an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.identity import keyed_hash

__all__ = ["Stream", "permute"]

_ROUNDS = 6
_PERMUTATION_KEY = 0x6F72646572  # "order": keeps these draws apart from those of augmentation


def permute(places: npt.NDArray[np.int64], *, num_samples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """int64[K] samples at `places` int64[K], both in [0, num_samples): a bijection keyed by (seed, epoch).

    A balanced Feistel network on the smallest even number of bits that holds `num_samples`, walked
    until it lands inside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002, section
    4), so that the order of 10^10 samples needs no memory.
    """
    half_bits = max(1, (max(num_samples - 1, 1).bit_length() + 1) // 2)
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    ids = np.arange(_ROUNDS, dtype=np.uint64) + np.uint64(epoch * _ROUNDS)
    round_keys = keyed_hash(seed ^ _PERMUTATION_KEY, ids)

    def once(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = x >> shift, x & mask
        for key in round_keys:
            # keyed_hash mixes its seed and each id; XOR with the round's key selects the function.
            left, right = right, left ^ (keyed_hash(seed, right ^ key) & mask)
        return (left << shift) | right

    values = once(places.astype(np.uint64))
    outside = np.flatnonzero(values >= num_samples)
    while outside.size:
        values[outside] = once(values[outside])
        outside = outside[values[outside] >= num_samples]
    return values.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Which sample stands at which position of the run."""

    num_samples: int
    seed: int
    global_batch_size: int

    def samples(self, positions: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(epochs int64[K], samples int64[K]) at `positions` int64[K]."""
        epochs, places = np.divmod(positions, self.num_samples)
        samples = np.empty_like(places)
        for epoch in sorted({int(e) for e in epochs}):
            here = epochs == epoch
            samples[here] = permute(places[here], num_samples=self.num_samples, seed=self.seed, epoch=epoch)
        return epochs, samples

    def chunks(self, *, start: int, stop: int, rank: int, world_size: int, chunk_size: int) -> Iterator[list[int]]:
        """Positions that `rank` loads from `start` to `stop`, in order, at most `chunk_size` at a time.

        A chunk never crosses the rank's part of one global batch, so chunks add up to whole batches.
        """
        local = self.global_batch_size // world_size
        for first in range(start, stop, self.global_batch_size):
            begin = first + rank * local
            for low in range(begin, begin + local, chunk_size):
                yield list(range(low, min(low + chunk_size, begin + local)))
