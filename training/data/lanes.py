"""The order of samples where whole shards are read, a few at a time: for data in a bucket.

    an epoch's shards in keyed order, the samples of each permuted by key: a line of N samples
        -> cut into W lanes of equal length -> W samples that follow each other come one from each lane

So W shards are open at a time, each is read from its first to its last sample before the lane's next one begins, and
a batch of B has B / W samples of each. Where a sample stands follows from (seed, epoch, place) and the sizes of the
shards alone.

`Stream.in_lanes` puts a batch in the order of its lanes. A rank's part of it is contiguous, so that rank r of R
reads the lanes from r W / R to (r + 1) W / R, and no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.records.identity import keyed_hash
from training.data.permute import permute, permute_each

__all__ = ["Lanes", "lanes_of"]

_SHARDS_KEY = 0x736861726473  # "shards"
_INSIDE_KEY = 0x696E73696465  # "inside"
_EPOCHS_KEPT = 2
"""A batch may span two."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Lanes:
    """One data set as an endless pass through its shards, `width` of them at a time."""

    sizes: npt.NDArray[np.int64]
    """int64[S]: samples of each shard, in the order of the index."""
    width: int
    """W: at least 1."""
    seed: int
    _lines: dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, sizes: Sequence[int] | npt.NDArray[np.int64], *, window: int, seed: int) -> Lanes:
        """Lanes over shards of `sizes`, of which at least one has a sample: one a sample where that is fewer."""
        counts = np.asarray(sizes, np.int64)
        return cls(sizes=counts, width=min(window, int(counts.sum())), seed=seed)

    def __getstate__(self) -> dict[str, object]:
        """For worker processes, which make their own lines."""
        return {**self.__dict__, "_lines": {}}

    def lane(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """float64[K] in (0, 1): the lanes at `places` int64[K] of an epoch, from the first to the last."""
        return (places % self.width + 0.5) / self.width

    def shards(self, places: npt.NDArray[np.int64], *, epoch: int) -> npt.NDArray[np.int64]:
        """int64[K]: the shards of the samples at `places` int64[K] of `epoch`."""
        return self._located(places, epoch)[0]

    def samples(self, places: npt.NDArray[np.int64], *, epoch: int) -> npt.NDArray[np.int64]:
        """int64[K]: the samples at `places` int64[K] of `epoch`, both in [0, N): every one comes once."""
        shards, inside = self._located(places, epoch)
        seed = self.seed ^ _INSIDE_KEY
        keys = keyed_hash(seed, shards.astype(np.uint64), np.full(len(shards), epoch, np.uint64))
        inside = permute_each(inside, sizes=self.sizes[shards], keys=keys, seed=seed)
        return self._firsts[shards] + inside

    @cached_property
    def _firsts(self) -> npt.NDArray[np.int64]:
        """int64[S]: the first sample of each shard."""
        return np.cumsum(self.sizes) - self.sizes

    def _located(
        self, places: npt.NDArray[np.int64], epoch: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(shards, places within them)."""
        order, ends = self._line(epoch)
        length, longer = divmod(int(ends[-1]), self.width)
        lanes = places % self.width
        on_line = lanes * length + np.minimum(lanes, longer) + places // self.width
        turns = np.searchsorted(ends, on_line, side="right")
        shards = order[turns]
        return shards, on_line - (ends[turns] - self.sizes[shards])

    def _line(self, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(the shards in the epoch's order, where each ends on the line)."""
        if epoch not in self._lines:
            count = len(self.sizes)
            order = permute(np.arange(count), num_samples=count, seed=self.seed ^ _SHARDS_KEY, epoch=epoch)
            while len(self._lines) >= _EPOCHS_KEPT:
                del self._lines[next(iter(self._lines))]
            self._lines[epoch] = (order, np.cumsum(self.sizes[order]))
        return self._lines[epoch]


def lanes_of(
    shard_sizes: Sequence[int] | npt.NDArray[np.int64], sizes: Sequence[int], *, window: int, seed: int
) -> tuple[Lanes, ...]:
    """Lanes for each of the data sets of `sizes` samples that lie end to end in the shards of `shard_sizes`."""
    counts = np.asarray(shard_sizes, np.int64)
    ends = np.searchsorted(np.cumsum(counts), np.cumsum(sizes), side="left") + 1
    parts = np.split(counts, ends[:-1])
    return tuple(Lanes.of(part, window=window, seed=seed + number) for number, part in enumerate(parts))
