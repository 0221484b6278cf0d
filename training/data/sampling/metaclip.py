"""metaclip: each sample with the probability that MetaCLIP's balance would keep it with, drawn anew in each epoch.

    counts of the queries in the set, t --> the share of its samples that each query draws
    stream --> a sample that none of its queries draws in this epoch is passed over --> batches

The rule and its draws are those of `balance.mode: metaclip` (pipeline/stages/balance): query q draws each sample that
contains it with probability t / max(count_q, t), by a keyed hash, and a sample is taken if any of its queries draws it.
There the key is (seed, uid, text of the query), and here (seed and epoch, uid, place of the query in its list), since
shards do not hold the list. So the distribution is the same, and each epoch brings other samples of the head queries.

Of several data sets each is drawn from by itself, as if every one had been balanced and then they were mixed: a place
means something in its own set's list alone, and with it its count and t. Weights are those of what is taken, not of the
positions that are gone through, so each data set goes through its own places as fast as its part of the batches needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.records.identity import keyed_hash, keyed_state
from training.config import MetaclipConfig
from training.data.index import SampleIndex
from training.data.sampling.queries import queries_of, query_counts
from training.data.sampling.sampling import Positions
from training.data.stream import Stream
from training.errors import DataError

__all__ = ["Metaclip", "chances_of", "query_limit", "seed_of_epoch", "shares_of"]

_EPOCHS_KEY = 0x6D65746163  # "metac"
_LARGEST = np.uint64(0xFFFFFFFFFFFFFFFF)
_SPAN = 2.0**64
_ROWS = 1 << 16
"""Samples that are looked at together where all of them are."""


def query_limit(counts: npt.NDArray[np.int64], config: MetaclipConfig) -> int:
    """t: given, or the smallest count for which the queries with no more hold `tail_share` of all matches, as the
    pipeline's `balance.tail_share` has it. `counts` int64[Q]."""
    if config.tail_share is None:
        return config.max_pairs_per_query
    rising = np.sort(counts[counts > 0])
    if not len(rising):
        return 1
    held = np.cumsum(rising)
    return int(rising[np.searchsorted(held, config.tail_share * held[-1], side="left")])


def shares_of(counts: npt.NDArray[np.int64], limit: int | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """float64[Q]: t / max(count, t), the share of its samples that each query draws. `counts` int64[Q]; `limit`: t, or
    int64[Q], that of each query's set."""
    return limit / np.maximum(counts, limit)


def chances_of(
    index: SampleIndex, shares: npt.NDArray[np.float64], *, samples: range
) -> Iterator[tuple[int, npt.NDArray[np.float64], float]]:
    """(first sample, float64[K]: the chance of each that at least one of its queries draws it, their sum), K at a time,
    over `samples` of `index`; `shares` float64[Q] as `shares_of` gives them."""
    from training.data.sampling import kernel

    of = queries_of(index)
    for first in range(samples.start, samples.stop, _ROWS):
        chances = np.empty(min(_ROWS, samples.stop - first))
        yield first, chances, kernel.expect(first, of, shares, chances)


def seed_of_epoch(seed: int, epoch: int) -> int:
    """The seed that the draws of an epoch are keyed by."""
    return int(keyed_hash(seed ^ _EPOCHS_KEY, np.array([epoch], np.uint64))[0])


class Metaclip:
    """The stream without the samples that no query draws."""

    def __init__(
        self, stream: Stream, index: SampleIndex, config: MetaclipConfig, *, times: Sequence[float] = ()
    ) -> None:
        """`stream` has one segment, over `index`; each set has as many `times` its samples, where it is not all. Raises
        DataError where a set, or its samples, have no queries."""
        self.batch_size = stream.global_batch_size
        self._stream = stream
        counts = query_counts(index)
        if times:
            lengths = np.diff(index.queries_end, prepend=0)
            counts = np.round(counts * np.repeat(times, lengths)).astype(np.int64)
        of_sets = np.split(counts, index.queries_end[:-1])
        self.limits = tuple(query_limit(of_set, config) for of_set in of_sets)
        """t of each data set."""
        limits = np.repeat(self.limits, [len(of_set) for of_set in of_sets])
        self.shares = shares_of(counts, limits)
        """float64[Q]: of its samples, that each query draws."""
        thresholds = np.full(len(counts), _LARGEST, np.uint64)
        head = counts > limits
        # Drawn when hash < share * 2^64: as an inclusive bound, one less.
        thresholds[head] = np.maximum(self.shares[head] * _SPAN, 1).astype(np.uint64) - np.uint64(1)
        first, self._sets = 0, []
        for number, size in enumerate(stream.segments[0].sizes):
            samples = range(first, first + size)
            kept = sum(total for _, _, total in chances_of(index, self.shares, samples=samples)) / size
            if not kept:
                which = f"data set {number + 1} of the mixture" if stream.weights else "the set"
                raise DataError(f"no caption of {which} contains a query; set --data.sampling uniform")
            alone = stream.set_of(number)
            self._sets.append(_Kept(alone, samples, index, thresholds, seed=stream.seed, share=kept))
            first += size

    @property
    def positions_a_batch(self) -> float:
        """As expected: of each set its part of the batch over the share that is kept of it."""
        weights = self._stream.set_shares
        return self.batch_size * sum(weight / kept.share for weight, kept in zip(weights, self._sets, strict=True))

    @property
    def shares_kept(self) -> tuple[float, ...]:
        """Of the samples of each weighted data set (all are one without weights), as expected; at most 1."""
        return tuple(kept.share for kept in self._sets)

    @property
    def samples_a_pass(self) -> int:
        """How many are taken of the first pass over a set without weights."""
        return self._sets[0].in_pass(0)

    def take(self, start: int, count: int) -> Positions:
        """int64[count]: the positions that are taken of a set without weights, from number `start` of them."""
        return self._sets[0].take(start, count)

    def batch(self, number: int) -> Positions:
        """int64[B]: those of the kept positions that come after `number` batches of them.

        In turn a batch costs the draws for what it passes over. Elsewhere the epochs before it are counted through as
        well, each once.
        """
        first = number * self.batch_size
        sets = self._stream.sets(np.arange(first, first + self.batch_size))
        positions = np.empty(self.batch_size, np.int64)
        for of, (kept, taken) in enumerate(zip(self._sets, self._stream.set_counts(first).tolist(), strict=True)):
            here = np.flatnonzero(sets == of)
            positions[here] = self._stream.set_positions(of, kept.take(taken, len(here)))
        return self._stream.in_lanes(positions)


class _Kept:
    """What is kept of one data set's places, one after the other."""

    def __init__(
        self,
        stream: Stream,
        samples: range,
        index: SampleIndex,
        thresholds: npt.NDArray[np.uint64],
        *,
        seed: int,
        share: float,
    ) -> None:
        """`stream`: of the set alone, whose `samples` of `index` these are; `share` of them is kept, as expected.
        `thresholds` uint64[Q]: a query draws the samples whose hash is at most its own."""
        self.share = share
        self._stream, self._samples, self._thresholds, self._seed = stream, samples, thresholds, seed
        self._of, self._uids = queries_of(index), np.asarray(index.uid)
        self._kept_in: dict[int, int] = {}
        self._taken = 0
        """How many have been taken; then the stream goes on at `_place`, after the `_waiting` places that were found
        too many."""
        self._place = 0
        self._waiting = np.empty(0, np.int64)

    def take(self, start: int, count: int) -> Positions:
        """int64[count]: the places that are kept, from number `start` of them."""
        if start != self._taken:
            self._go_to(start)
        found = [self._waiting]
        missing = count - len(self._waiting)
        while missing > 0:
            # A little more than is needed, as expected, so that few batches look twice; in lanes and chunks alike.
            ahead = int(missing / self.share * 1.02) + 64
            kept = self._kept(np.arange(self._place, self._place + ahead))
            self._place += ahead
            found.append(kept)
            missing -= len(kept)
        places = np.concatenate(found)
        self._waiting = places[count:]
        self._taken = start + count
        return places[:count]

    def _go_to(self, wanted: int) -> None:
        """Stand where `wanted` samples have been taken."""
        size, number = len(self._samples), 0
        while wanted >= (kept := self.in_pass(number)):
            wanted -= kept
            number += 1
        self._place, self._waiting = number * size, np.empty(0, np.int64)
        while wanted > 0:
            count = min(_ROWS, size - self._place % size)
            kept_here = self._kept(np.arange(self._place, self._place + count))
            self._place += count
            self._waiting = kept_here[wanted:]
            wanted -= min(wanted, len(kept_here))

    def in_pass(self, number: int) -> int:
        """How many samples a pass keeps; the first is number 0."""
        epoch = self._stream.segments[0].first_epoch + number
        if epoch not in self._kept_in:
            # Whatever order the epoch has: one after the other is the fastest.
            first, stop = self._samples.start, self._samples.stop
            self._kept_in[epoch] = sum(
                self._mark(np.arange(low, min(low + _ROWS, stop)), epoch, np.empty(_ROWS, np.bool_))
                for low in range(first, stop, _ROWS)
            )
        return self._kept_in[epoch]

    def _kept(self, places: Positions) -> Positions:
        """Those of `places`, which follow each other, whose samples are drawn."""
        drawn = self._stream.draw(places)
        kept = np.empty(len(places), np.bool_)
        for epoch in range(int(drawn.epochs[0]), int(drawn.epochs[-1]) + 1):
            here = slice(*np.searchsorted(drawn.epochs, [epoch, epoch + 1]).tolist())
            self._mark(drawn.samples[here] + self._samples.start, epoch, kept[here])
        return places[kept]

    def _mark(self, samples: npt.NDArray[np.int64], epoch: int, kept: npt.NDArray[np.bool_]) -> int:
        """Set `kept` for the `samples` that are drawn in an epoch; returns how many."""
        from training.data.sampling import kernel

        state = keyed_state(seed_of_epoch(self._seed, epoch))
        return int(kernel.mark_kept(samples, self._of, self._uids, self._thresholds, state, kept))
