"""The order of training samples: a function of (seed, epoch, position), with one integer of state.

    position (0, 1, 2, ... over the whole run)
        -> segment: the snapshot of the data that holds from there on
        -> data set, by weight (with one, or without weights, all is one data set)
        -> epoch = place in the data set // N, place % N
        -> sample = permute(place; seed, epoch), or where whole shards are read, as `lanes.py` has it

Which positions a global batch takes says its sampling (`sampling/`); as a rule they are a run of consecutive ones. So
a stopped run goes on from `samples_seen` alone. A batch may span two epochs or segments; every sample still comes
exactly once an epoch.

Weights are kept by blocks of 4,096 positions: in each block every data set has the same number of
slots, and a keyed permutation of the block says which. So the mixture is exact over any block, no
position needs to know the ones before it, and each data set still runs through its own epochs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from training.data.lanes import Lanes
from training.data.permute import permute

__all__ = ["Drawn", "Segment", "Stream", "block_shares", "share"]

_MIXTURE_KEY = 0x6D6978  # "mix"
_BLOCK = 4096
"""Positions over which weights hold exactly; also their resolution."""


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
    first_sample: int = 0
    """The run's samples before it, where positions are left out and data is followed."""
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
class _Placed:
    """Where K positions lie."""

    segments: npt.NDArray[np.int64]
    sources: npt.NDArray[np.int64]
    """int64[K]: which data set of the segment."""
    epochs: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    """int64[K]: in the data set's epoch."""

    def groups(self) -> Iterator[tuple[npt.NDArray[np.int64], int, int, int]]:
        """(which of them, segment, data set, epoch) for each set of those that have these three in common."""
        epochs = int(self.epochs.max(initial=0)) + 1
        sources = int(self.sources.max(initial=0)) + 1
        keys = (self.segments * sources + self.sources) * epochs + self.epochs
        is_one = len(keys) > 0 and keys.min() == keys.max()  # nearly always
        for key in keys[:1] if is_one else np.unique(keys):
            rest, epoch = divmod(int(key), epochs)
            yield np.flatnonzero(keys == key), *divmod(rest, sources), epoch


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Which sample stands at which position of the run."""

    segments: tuple[Segment, ...]
    """At least one, by start."""
    seed: int
    global_batch_size: int
    weights: tuple[float, ...] = ()
    """One for each data set of the segments; empty where all are one."""
    lanes: tuple[tuple[Lanes, ...], ...] = ()
    """For each segment those of its data sets, where whole shards are read; else empty."""

    def draw(self, positions: npt.NDArray[np.int64]) -> Drawn:
        """What stands at `positions` int64[K], all at or after the first segment's start."""
        return self._drawn(self._placed(positions))

    def in_lanes(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """`positions` int64[K], where whole shards are read in the order of their lanes: so that a contiguous part of
        them lies in few shards."""
        if not self.lanes:
            return positions
        placed = self._placed(positions)
        lane = np.empty(len(positions))
        for group, number, source, _ in placed.groups():
            lane[group] = self.lanes[number][source].lane(placed.places[group])
        return positions[np.argsort(lane, kind="stable")]

    def shards(self, positions: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
        """(segment, shard of its index) of all samples at `positions`, of a stream in lanes; each once."""
        placed = self._placed(positions)
        found: dict[tuple[int, int], None] = {}
        for here, number, source, epoch in placed.groups():
            lanes = self.lanes[number]
            before = sum(len(each.sizes) for each in lanes[:source])
            for shard in lanes[source].shards(placed.places[here], epoch=epoch):
                found[number, before + int(shard)] = None
        return list(found)

    def passes(self, segment: Segment, stop: int) -> int:
        """Epochs begun in `segment` up to position `stop`, in the data set with most."""
        length = stop - segment.start
        if len(segment.sizes) == 1:
            return -(-length // segment.sizes[0])
        blocks = -(-length // _BLOCK)
        shares = block_shares(self.weights)
        return max(-(-blocks * share // size) for share, size in zip(shares, segment.sizes, strict=True))

    @property
    def set_shares(self) -> tuple[float, ...]:
        """Of the positions, what each data set of a segment has; they add up to 1."""
        return tuple(share / _BLOCK for share in block_shares(self.weights)) if self.weights else (1.0,)

    def segment_of(self, number: int) -> Stream:
        """Segment `number` by itself, for ever: its positions are counted from its start."""
        segment = replace(self.segments[number], start=0, first_sample=0)
        return replace(self, segments=(segment,), lanes=self.lanes[number : number + 1])

    def set_of(self, number: int) -> Stream:
        """Data set `number` of the first segment by itself: its places are the positions, its samples counted from 0.
        `set_positions` says where in this stream they stand."""
        lanes = ((self.lanes[0][number],),) if self.lanes else ()
        segment = Segment(sizes=(self.segments[0].sizes[number],), first_epoch=self.segments[0].first_epoch)
        return replace(self, segments=(segment,), seed=self.seed + number, weights=(), lanes=lanes)

    def sets(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64[K]: which data set has each of `positions` of the first segment."""
        return self._sources(positions, np.zeros_like(positions))[0]

    def set_counts(self, stop: int) -> npt.NDArray[np.int64]:
        """int64[S]: how many of the first `stop` positions of the first segment each data set has."""
        if len(self.segments[0].sizes) == 1:
            return np.array([stop])
        blocks = stop // _BLOCK
        rest = self.sets(np.arange(blocks * _BLOCK, stop))
        return blocks * np.array(block_shares(self.weights)) + np.bincount(rest, minlength=len(self.weights))

    def set_positions(self, number: int, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64[K]: where `places` of data set `number` stand in the first segment."""
        if len(self.segments[0].sizes) == 1:
            return places
        shares = np.array(block_shares(self.weights))
        blocks, slots = np.divmod(places, shares[number])
        slots += int(shares[:number].sum())
        for block in np.unique(blocks):
            here = blocks == block
            slots[here] = np.argsort(self._slots(int(block)))[slots[here]]
        return blocks * _BLOCK + slots

    def _slots(self, block: int) -> npt.NDArray[np.int64]:
        """int64[4096]: the slot of each position of a block of weighted data sets."""
        return permute(np.arange(_BLOCK), num_samples=_BLOCK, seed=self.seed ^ _MIXTURE_KEY, epoch=block)

    def _placed(self, positions: npt.NDArray[np.int64]) -> _Placed:
        """Where `positions` lie in the data sets."""
        starts = np.array([segment.start for segment in self.segments])
        which = np.searchsorted(starts, positions, side="right") - 1
        sources, places = self._sources(positions - starts[which], which)
        sizes = np.array([segment.sizes for segment in self.segments])[which, sources]
        epochs, places = np.divmod(places, sizes)
        epochs += np.array([segment.first_epoch for segment in self.segments])[which]
        return _Placed(segments=which, sources=sources, epochs=epochs, places=places)

    def _sources(
        self, places: npt.NDArray[np.int64], segments: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(data sets, places in them) of `places` counted from their segment's start."""
        if len(self.segments[0].sizes) == 1:
            return np.zeros_like(places), places
        blocks, slots = np.divmod(places, _BLOCK)
        for block in np.unique(blocks):
            here = blocks == block
            slots[here] = permute(slots[here], num_samples=_BLOCK, seed=self.seed ^ _MIXTURE_KEY, epoch=int(block))
        shares = np.array(block_shares(self.weights))
        ends = np.cumsum(shares)
        sources = np.searchsorted(ends, slots, side="right")
        return sources, blocks * shares[sources] + slots - (ends - shares)[sources]

    def _drawn(self, placed: _Placed) -> Drawn:
        samples = np.empty_like(placed.places)
        for here, number, source, epoch in placed.groups():
            sizes, places = self.segments[number].sizes, placed.places[here]
            if self.lanes:
                lanes = self.lanes[number][source]
                found = lanes.samples(places, epoch=epoch)
            else:
                found = permute(places, num_samples=sizes[source], seed=self.seed + source, epoch=epoch)
            samples[here] = found + sum(sizes[:source])
        return Drawn(segments=placed.segments, epochs=placed.epochs, samples=samples)
