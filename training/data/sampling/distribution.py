"""How often each query comes under a sampling: for those who plan a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from training.data.index import SampleIndex
from training.data.sampling.metaclip import Metaclip, chances_of
from training.data.sampling.queries import queries_of, query_counts
from training.data.sampling.sampling import Sampling, Uniform
from training.data.stream import Stream

__all__ = ["HEAD", "Distribution", "sampling_distribution"]

HEAD = 100
"""Queries that count as the head: the most frequent ones, as they are drawn."""


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
    with_head: float
    """The share of the samples that are seen which contain one of the head's queries."""

    @property
    def queries(self) -> int:
        """How many come at all."""
        return int((self.shares > 0).sum())

    @property
    def head(self) -> npt.NDArray[np.int64]:
        """int64[H]: the `HEAD` queries with the largest shares."""
        return np.argsort(-self.shares, kind="stable")[:HEAD]

    @property
    def head_share(self) -> float:
        """The share of the matches of the head's queries."""
        return float(self.shares[self.head].sum())

    def tail_share(self, limit: int) -> float:
        """The share of the matches of queries that at most `limit` samples of the set contain."""
        return float(self.shares[self.in_set <= limit].sum())


def sampling_distribution(
    sampling: Sampling, stream: Stream, index: SampleIndex, *, num_batches: int = 8
) -> Distribution:
    """That of `sampling` over `stream` and `index`: exact, as expected over the draws, for uniform and metaclip; for
    concept as `num_batches` batches from the run's beginning have it. Raises DataError where the index has no queries.
    """
    from training.data.sampling import kernel

    in_set, of = query_counts(index), queries_of(index)
    seen, samples = np.zeros(len(in_set)), 0.0
    for drawn, often in _drawn(sampling, stream, index, num_batches):
        found = kernel.gather(drawn, of)
        seen += np.bincount(found.queries, np.repeat(often, np.diff(found.ends, prepend=0)), minlength=len(seen))
        samples += float(often.sum())
    if isinstance(sampling, Uniform | Metaclip):  # also those without a query
        samples = len(index) * sampling.batch_size / sampling.positions_a_batch
    matches = float(seen.sum())
    told = Distribution(
        in_set=in_set,
        shares=seen / max(matches, 1.0),
        samples_an_epoch=len(index) * sampling.batch_size / sampling.positions_a_batch,
        queries_a_sample=matches / samples,
        with_head=0.0,
    )
    is_head = np.zeros(len(in_set), np.bool_)
    is_head[told.head] = True
    with_head = 0.0
    for drawn, often in _drawn(sampling, stream, index, num_batches):
        found = kernel.gather(drawn, of)
        before = np.concatenate([[0], np.cumsum(is_head[found.queries])])
        with_head += float(often[np.diff(before[found.ends], prepend=0) > 0].sum())
    return replace(told, with_head=with_head / samples)


def _drawn(
    sampling: Sampling, stream: Stream, index: SampleIndex, num_batches: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """(int64[K]: samples with queries; float64[K]: how often each comes), until all have been that may come."""
    if not isinstance(sampling, Uniform | Metaclip):
        for number in range(num_batches):
            samples = stream.draw(sampling.batch(number)).samples
            yield samples, np.ones(len(samples))
        return
    an_epoch = len(index) * sampling.batch_size / sampling.positions_a_batch
    sizes = stream.segments[0].sizes
    draws, kept = np.ones(index.num_queries), [1.0] * len(sizes)
    if isinstance(sampling, Metaclip):
        draws, kept = sampling.shares, list(sampling.shares_kept)
    stops = np.cumsum(sizes).tolist()
    for size, stop, share, part in zip(sizes, stops, stream.set_shares, kept, strict=True):
        # How often a sample comes that is drawn whenever its set is passed through.
        passes = an_epoch * share / (size * part)
        for first, chances, _ in chances_of(index, draws, samples=range(stop - size, stop)):
            yield np.arange(first, first + len(chances)), passes * chances
