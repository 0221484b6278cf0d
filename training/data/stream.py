"""The order of training samples: a function of (seed, epoch, position), with one integer of state.

    position (0, 1, 2, ... over the whole run)
        -> segment: the snapshot of the data that holds from there on
        -> data set, by weight (with one, or without weights, all is one data set)
        -> epoch = place in the data set // N, place % N
        -> sample = permute(place; seed, epoch)

A global batch is a run of consecutive positions, and a rank takes a contiguous part of it (`share`), so every
world size sees the same global batches, and a stopped run goes on from `samples_seen` alone.
A batch may span two epochs or segments; every sample still comes exactly once an epoch.

Weights are kept by blocks of 4,096 positions: in each block every data set has the same number of
slots, and a keyed permutation of the block says which. So the mixture is exact over any block, no
position needs to know the ones before it, and each data set still runs through its own epochs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.records.identity import keyed_hash

__all__ = ["Drawn", "Segment", "Stream", "block_shares", "permute", "share"]

_ROUNDS = 6
_PERMUTATION_KEY = 0x6F72646572  # "order": keeps these draws apart from those of augmentation
_MIXTURE_KEY = 0x6D6978  # "mix"
_BLOCK = 4096
"""Positions over which weights hold exactly; also their resolution."""


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


def share(count: int, *, rank: int, world_size: int) -> tuple[int, int]:
    """(start, stop) of the part of `count` things that `rank` takes: contiguous, in rank order, equal to within one."""
    return count * rank // world_size, count * (rank + 1) // world_size


def block_shares(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Slots of a block of 4,096 positions for each data set: as `weights`, by largest remainder, at least 1 each."""
    exact = [_BLOCK * weight / sum(weights) for weight in weights]
    shares = [max(1, int(share)) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (int(exact[i]) - exact[i], i))
    for i in range(_BLOCK - sum(shares)):
        shares[by_remainder[i % len(shares)]] += 1
    while sum(shares) > _BLOCK:  # tiny weights were rounded up
        shares[shares.index(max(shares))] -= 1
    return tuple(shares)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of the run over one snapshot of the data; it lasts until the next one begins."""

    sizes: tuple[int, ...]
    """Samples of each weighted data set, which stand in this order in the index."""
    start: int = 0
    """Position of the run at which it begins."""
    first_epoch: int = 0
    """Number of its first epoch, beyond those of the segments before."""
    snapshot: str = ""
    """Fingerprint of the index: where RUN/index keeps it."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What stands at K positions."""

    segments: npt.NDArray[np.int64]
    """int64[K]: index into `Stream.segments`."""
    epochs: npt.NDArray[np.int64]
    """int64[K]: how often the sample's data set was passed before."""
    samples: npt.NDArray[np.int64]
    """int64[K]: place in the segment's index."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Which sample stands at which position of the run."""

    segments: tuple[Segment, ...]
    """At least one, by start."""
    seed: int
    global_batch_size: int
    weights: tuple[float, ...] = ()
    """One for each data set of the segments; empty where all are one."""

    def draw(self, positions: npt.NDArray[np.int64]) -> Drawn:
        """What stands at `positions` int64[K], all at or after the first segment's start."""
        starts = np.array([segment.start for segment in self.segments])
        which = np.searchsorted(starts, positions, side="right") - 1
        epochs, samples = np.empty_like(positions), np.empty_like(positions)
        for number in sorted({int(s) for s in which}):
            here = which == number
            segment = self.segments[number]
            epochs[here], samples[here] = self._within(segment, positions[here] - segment.start)
        return Drawn(segments=which, epochs=epochs, samples=samples)

    def passes(self, segment: Segment, stop: int) -> int:
        """Epochs begun in `segment` up to position `stop`, in the data set with most."""
        length = stop - segment.start
        if len(segment.sizes) == 1:
            return -(-length // segment.sizes[0])
        blocks = -(-length // _BLOCK)
        shares = block_shares(self.weights)
        return max(-(-blocks * share // size) for share, size in zip(shares, segment.sizes, strict=True))

    def _within(
        self, segment: Segment, places: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(epochs, samples) at `places` counted from the segment's start."""
        if len(segment.sizes) == 1:
            return self._one(segment, places, size=segment.sizes[0], seed=self.seed)
        blocks, slots = np.divmod(places, _BLOCK)
        for block in sorted({int(b) for b in blocks}):
            here = blocks == block
            slots[here] = permute(slots[here], num_samples=_BLOCK, seed=self.seed ^ _MIXTURE_KEY, epoch=block)
        shares = np.array(block_shares(self.weights))
        ends = np.cumsum(shares)
        source = np.searchsorted(ends, slots, side="right")
        epochs, samples = np.empty_like(places), np.empty_like(places)
        for number in sorted({int(s) for s in source}):
            here = source == number
            place = blocks[here] * shares[number] + slots[here] - (ends[number] - shares[number])
            epoch, sample = self._one(segment, place, size=segment.sizes[number], seed=self.seed + number)
            epochs[here], samples[here] = epoch, sample + sum(segment.sizes[:number])
        return epochs, samples

    def _one(
        self, segment: Segment, places: npt.NDArray[np.int64], *, size: int, seed: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(epochs, samples) of one data set at its own `places`."""
        epochs, places = np.divmod(places, size)
        epochs += segment.first_epoch
        samples = np.empty_like(places)
        for epoch in sorted({int(e) for e in epochs}):
            here = epochs == epoch
            samples[here] = permute(places[here], num_samples=size, seed=seed, epoch=epoch)
        return epochs, samples

    def chunks(self, *, start: int, stop: int, rank: int, world_size: int, chunk_size: int) -> Iterator[list[int]]:
        """Positions that `rank` loads from `start` to `stop`, in order, at most `chunk_size` at a time.

        A chunk never crosses the rank's part of one global batch, so chunks add up to whole batches.
        """
        begin, end = share(self.global_batch_size, rank=rank, world_size=world_size)
        for first in range(start, stop, self.global_batch_size):
            for low in range(first + begin, first + end, chunk_size):
                yield list(range(low, min(low + chunk_size, first + end)))
