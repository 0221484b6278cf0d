"""How often each query comes under a sampling: for those who plan a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data.index import SampleIndex
from training.data.sampling.metaclip import Metaclip, chances_of
from training.data.sampling.queries import queries_of, query_counts
from training.data.sampling.sampling import Sampling, Uniform
from training.data.stream import Stream

__all__ = ["Distribution", "sampling_distribution"]


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """What a sampling makes of the queries of a set."""

    in_set: npt.NDArray[np.int64]
    """int64[Q]: the samples that contain each query."""
    shares: npt.NDArray[np.float64]
    """float64[Q]: the share of each among all matches of the samples that the model sees; they add up to 1."""
    samples_an_epoch: float
    """How many samples are seen while the stream goes through the set once."""
    queries_a_sample: float
    """Of those that are seen, in the mean."""

    def tail_share(self, limit: int) -> float:
        """The share of the matches of queries that at most `limit` samples of the set contain."""
        return float(self.shares[self.in_set <= limit].sum())


def sampling_distribution(
    sampling: Sampling, stream: Stream, index: SampleIndex, *, num_batches: int = 8
) -> Distribution:
    """That of `sampling` over `stream` and `index`: exact, as expected over the draws, for uniform and metaclip; for
    concept as `num_batches` batches from the run's beginning have it. Raises DataError where the index has no queries.
    """
    in_set = query_counts(index)
    seen = np.zeros(len(in_set))
    if isinstance(sampling, Uniform | Metaclip):
        samples = len(index) * sampling.batch_size / sampling.positions_a_batch
        ends, queries = queries_of(index)
        sizes, draws, kept = stream.segments[0].sizes, np.ones(len(in_set)), [1.0] * len(stream.segments[0].sizes)
        if isinstance(sampling, Metaclip):
            draws, kept = sampling.shares, list(sampling.shares_kept)
        stop_of = np.cumsum(sizes).tolist()
        for size, stop, share, part in zip(sizes, stop_of, stream.set_shares, kept, strict=True):
            # How often a sample comes that is drawn whenever its set is passed through.
            passes = samples * share / (size * part)
            for first, chances, _ in chances_of(index, draws, samples=range(stop - size, stop)):
                begin, end = int(ends[first - 1]) if first else 0, int(ends[first + len(chances) - 1])
                lengths = np.diff(ends[first : first + len(chances)], prepend=begin)
                seen += passes * np.bincount(queries[begin:end], np.repeat(chances, lengths), minlength=len(seen))
    else:
        from training.data.sampling import kernel

        counts = np.zeros(len(in_set), np.int64)
        for number in range(num_batches):
            drawn = stream.draw(sampling.batch(number)).samples
            kernel.add_counts(kernel.gather(drawn, queries_of(index)).queries, counts)
        samples, seen = float(num_batches * sampling.batch_size), counts.astype(np.float64)
    matches = float(seen.sum())
    return Distribution(
        in_set=in_set,
        shares=seen / max(matches, 1.0),
        samples_an_epoch=len(index) * sampling.batch_size / sampling.positions_a_batch,
        queries_a_sample=matches / samples,
    )
