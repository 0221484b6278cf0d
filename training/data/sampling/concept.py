"""concept: the batch that suits best, out of a few times as many samples that follow each other in the stream.

    super-batch: the next R * B positions --their queries--> the B of them that are chosen; the others are passed over

After CABS (Ghosh et al., "Concept-Aware Batch Sampling Improves Language-Image Pretraining", arXiv 2511.20643):
diversity is its CABS-DM, frequency its CABS-FM, and R = 5 its filter ratio of 0.8. What differs: concepts are the
queries that captions contain, not what taggers saw in pictures; the super-batch is that of all ranks, where the paper's
code takes one a rank; nothing of what is passed over is read; and the two numbers below, which its description leaves
open, are these:

- Several data sets: the super-batch is that of their mixture, with its weights, which the batch need not have. A query
  is one of its own set's list: the same text in two lists is two concepts, since shards do not hold the texts.
- How often a concept comes, 1 / F of CABS-DM: its samples in the super-batch.
- The cap of CABS-DM, the same for every concept: the smallest for which the super-batch could give a batch of the usual
  number of matches without any query above it. That is the flattest distribution of queries that it holds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.config import ConceptConfig
from training.data.index import SampleIndex
from training.data.sampling.queries import queries_of
from training.data.sampling.sampling import Positions
from training.data.stream import Stream
from training.errors import DataError

__all__ = ["Concept", "flat_cap"]


def flat_cap(counts: npt.NDArray[np.int64], wanted: int) -> int:
    """The smallest cap, at least 1, for which sum(min(count, cap)) over `counts` int64[Q] reaches `wanted`; the largest
    count where none does."""
    with_count = np.bincount(counts)
    # above[c]: queries with more than c samples; each step of the cap from c to c + 1 adds as many.
    above = len(counts) - np.cumsum(with_count)
    return int(np.clip(np.searchsorted(np.cumsum(above), wanted) + 1, 1, max(len(with_count) - 1, 1)))


class Concept:
    """The stream by super-batches, of each of which a batch is taken."""

    def __init__(self, stream: Stream, index: SampleIndex, config: ConceptConfig) -> None:
        """`stream` has one segment, over `index`. Raises DataError where that has no queries, or less samples than a
        super-batch."""
        self.batch_size = stream.global_batch_size
        self.super_batch_size = config.super_batch * self.batch_size
        if self.super_batch_size > len(index):
            raise DataError(
                f"data.concept.super_batch {config.super_batch} of a global batch of {self.batch_size} is more than "
                f"the {len(index)} samples that there are; lower one of the two, or set --data.sampling uniform"
            )
        self._stream = stream
        self._config = config
        self._of, self._num_queries = queries_of(index), index.num_queries

    @property
    def positions_a_batch(self) -> float:
        """R * B."""
        return float(self.super_batch_size)

    @property
    def samples_a_pass(self) -> int:
        """How many are taken of the first pass, of whose end less than a super-batch is passed over."""
        (segment,) = self._stream.segments
        return sum(segment.sizes) // self.super_batch_size * self.batch_size

    def take(self, start: int, count: int) -> Positions:
        """int64[B]: batch `start` / B, which `count` = B samples are."""
        return self.batch(start // count)

    def batch(self, number: int) -> Positions:
        """int64[B]: what is chosen of super-batch `number`; needs no other batch."""
        from training.data.sampling import kernel

        positions = np.arange(number * self.super_batch_size, (number + 1) * self.super_batch_size)
        drawn = self._stream.draw(positions)
        samples = drawn.samples
        if drawn.epochs.min() != drawn.epochs.max():  # a sample may stand in several: it counts where it comes first
            first = np.sort(np.unique(samples, return_index=True)[1])
            if len(first) >= self.batch_size:  # else small sets have so large weights that it cannot be helped
                positions, samples = positions[first], samples[first]
        of = kernel.gather(samples, self._of)
        if self._config.prefer == "frequency":
            chosen = self._longest(of.ends)
        else:
            of, counts = kernel.number_anew(of, self._num_queries)
            cap = self._config.max_pairs_per_query
            if cap is None:
                cap = flat_cap(counts, len(of.queries) * self.batch_size // len(samples))
            chosen = kernel.choose_diverse(of, counts, cap, self.batch_size)
        return self._stream.in_lanes(positions[np.sort(chosen)])

    def _longest(self, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64[B]: the samples with the most queries, of equal ones the first."""
        lengths = np.diff(ends, prepend=0)
        return np.argsort(-lengths, kind="stable")[: self.batch_size]
