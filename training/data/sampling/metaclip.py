"""metaclip: each sample with the probability that MetaCLIP's balance would keep it with, drawn anew in each epoch.

    counts of the queries in the set, t --> the share of its samples that each query draws
    stream --> a sample that none of its queries draws in this epoch is passed over --> batches

The rule and its draws are those of `balance.mode: metaclip` (pipeline/stages/balance): query q draws each sample that
contains it with probability t / max(count_q, t), by a keyed hash, and a sample is taken if any of its queries draws it.
There the key is (seed, uid, text of the query), and here (seed and epoch, uid, place of the query in its list), since
shards do not hold the list. So the distribution is the same, and each epoch brings other samples of the head queries.
"""

from __future__ import annotations

from collections.abc import Iterator

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


def shares_of(counts: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.float64]:
    """float64[Q]: t / max(count, t), the share of its samples that each query draws. `counts` int64[Q]."""
    return limit / np.maximum(counts, limit)


def chances_of(
    index: SampleIndex, shares: npt.NDArray[np.float64]
) -> Iterator[tuple[int, npt.NDArray[np.float64], float]]:
    """(first sample, float64[K]: the chance of each that at least one of its queries draws it, their sum), K at a time,
    over all of `index`; `shares` float64[Q] as `shares_of` gives them."""
    from training.data.sampling import kernel

    of = queries_of(index)
    for first in range(0, len(index), _ROWS):
        chances = np.empty(min(_ROWS, len(index) - first))
        yield first, chances, kernel.expect(first, of, shares, chances)


def seed_of_epoch(seed: int, epoch: int) -> int:
    """The seed that the draws of an epoch are keyed by."""
    return int(keyed_hash(seed ^ _EPOCHS_KEY, np.array([epoch], np.uint64))[0])


class Metaclip:
    """The stream without the samples that no query draws."""

    def __init__(self, stream: Stream, index: SampleIndex, config: MetaclipConfig) -> None:
        """`stream` has one segment over one data set, that of `index`. Raises DataError where that has no queries."""
        self.batch_size = stream.global_batch_size
        self._stream = stream
        self._of, self._uids = queries_of(index), np.asarray(index.uid)
        counts = query_counts(index)
        self.limit = query_limit(counts, config)
        """t."""
        shares = shares_of(counts, self.limit)
        self._limits = np.full(len(counts), _LARGEST, np.uint64)
        head = counts > self.limit
        # Drawn when hash < share * 2^64: as an inclusive bound, one less.
        self._limits[head] = np.maximum(shares[head] * _SPAN, 1).astype(np.uint64) - np.uint64(1)
        self.share_kept = sum(total for _, _, total in chances_of(index, shares)) / len(index)
        """Of the samples, as expected; at most 1."""
        if not self.share_kept:
            raise DataError("no caption of the set contains a query; set --data.sampling uniform")
        self._kept_in: dict[int, int] = {}
        self._next = 0
        """The batch that follows the last one that was asked for; then the stream goes on at `_position`, after the
        `_waiting` positions that were found too many."""
        self._position = 0
        self._waiting = np.empty(0, np.int64)

    @property
    def positions_a_batch(self) -> float:
        """As expected: B over the share that is kept."""
        return self.batch_size / self.share_kept

    def batch(self, number: int) -> Positions:
        """int64[B]: those of the kept positions that come after `number` batches of them.

        In turn a batch costs the draws for what it passes over. Elsewhere the epochs before it are counted through as
        well, each once.
        """
        if number != self._next:
            self._go_to(number * self.batch_size)
        found = [self._waiting]
        missing = self.batch_size - len(self._waiting)
        while missing > 0:
            # A little more than is needed, as expected, so that few batches look twice; in lanes and chunks alike.
            count = int(missing / self.share_kept * 1.02) + 64
            kept = self._kept(np.arange(self._position, self._position + count))
            self._position += count
            found.append(kept)
            missing -= len(kept)
        positions = np.concatenate(found)
        self._waiting = positions[self.batch_size :]
        self._next = number + 1
        return self._stream.in_lanes(positions[: self.batch_size])

    def _go_to(self, wanted: int) -> None:
        """Stand where `wanted` samples have been taken."""
        size, epoch = len(self._uids), 0
        while wanted >= (kept := self._kept_of(epoch)):
            wanted -= kept
            epoch += 1
        self._position, self._waiting = epoch * size, np.empty(0, np.int64)
        while wanted > 0:
            count = min(_ROWS, size - self._position % size)
            kept_here = self._kept(np.arange(self._position, self._position + count))
            self._position += count
            self._waiting = kept_here[wanted:]
            wanted -= min(wanted, len(kept_here))

    def _kept_of(self, epoch: int) -> int:
        """How many samples an epoch keeps."""
        if epoch not in self._kept_in:
            from training.data.sampling import kernel

            state = keyed_state(seed_of_epoch(self._stream.seed, epoch))
            kept = np.empty(_ROWS, np.bool_)
            size = len(self._uids)
            # Whatever order the epoch has: one after the other is the fastest.
            self._kept_in[epoch] = sum(
                kernel.mark_kept(
                    np.arange(low, min(low + _ROWS, size)), self._of, self._uids, self._limits, state, kept
                )
                for low in range(0, size, _ROWS)
            )
        return self._kept_in[epoch]

    def _kept(self, positions: Positions) -> Positions:
        """Those of `positions`, which follow each other, whose samples are drawn."""
        from training.data.sampling import kernel

        drawn = self._stream.draw(positions)
        kept = np.empty(len(positions), np.bool_)
        for epoch in range(int(drawn.epochs[0]), int(drawn.epochs[-1]) + 1):
            here = slice(*np.searchsorted(drawn.epochs, [epoch, epoch + 1]).tolist())
            state = keyed_state(seed_of_epoch(self._stream.seed, epoch))
            kernel.mark_kept(drawn.samples[here], self._of, self._uids, self._limits, state, kept[here])
        return positions[kept]
