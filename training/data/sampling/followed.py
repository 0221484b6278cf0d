"""Sampling over data that grows: one for each snapshot, of the queries that are there then, one after the other.

    segment of the stream = a pass over its snapshot --its own sampling--> what the pass takes --> batches

A batch may take the last of one pass and the first of the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from training.data.sampling.sampling import Positions, Sampling
from training.data.stream import Stream

__all__ = ["Followed", "Passing"]


class Passing(Sampling, Protocol):
    """A sampling that can say what it takes of its stream's first pass."""

    @property
    def samples_a_pass(self) -> int:
        """How many it takes."""

    def take(self, start: int, count: int) -> Positions:
        """int64[count]: the positions of what it takes, from number `start`. Concept takes whole batches only."""


class Followed:
    """A sampling for each segment of the stream."""

    def __init__(self, stream: Stream, samplings: Sequence[Passing]) -> None:
        """`samplings`: one for each segment, over that alone (`Stream.segment_of`)."""
        self._stream, self._samplings = stream, samplings

    @property
    def batch_size(self) -> int:
        """B."""
        return self._stream.global_batch_size

    @property
    def positions_a_batch(self) -> float:
        """In the newest segment."""
        return self._samplings[-1].positions_a_batch

    @property
    def end(self) -> int:
        """Number of the run's first sample that the last segment's pass no longer has."""
        return self._stream.segments[-1].first_sample + self._samplings[-1].samples_a_pass

    def batch(self, number: int) -> Positions:
        """int64[B]; the batch ends before `end`, and begins where a segment of the stream still is."""
        first, stop = number * self.batch_size, (number + 1) * self.batch_size
        found = []
        for segment, sampling in zip(self._stream.segments, self._samplings, strict=True):
            begin = max(first, segment.first_sample)
            end = min(stop, segment.first_sample + sampling.samples_a_pass)
            if begin < end:
                found.append(segment.start + sampling.take(begin - segment.first_sample, end - begin))
        return self._stream.in_lanes(np.concatenate(found))
