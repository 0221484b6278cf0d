"""What a sampling is; the uniform one; and a rank's part of each batch, one batch ahead."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from training.data.stream import Stream, share

__all__ = ["Positions", "Sampling", "Uniform", "chunks", "parts"]

Positions = npt.NDArray[np.int64]


class Sampling(Protocol):
    """Which positions of the stream each global batch takes."""

    @property
    def batch_size(self) -> int:
        """B: the global batch."""

    @property
    def positions_a_batch(self) -> float:
        """How far the stream goes on with each batch: B where every position is taken; for metaclip as expected."""

    def batch(self, number: int) -> Positions:
        """int64[B]: what batch `number` of the run takes, no position twice; in the order of the lanes where whole
        shards are read (`Stream.in_lanes`). A function of the number: which were asked for before changes nothing."""


@dataclass(frozen=True)
class Uniform:
    """Every position, one after the other."""

    stream: Stream

    @property
    def batch_size(self) -> int:
        """B."""
        return self.stream.global_batch_size

    @property
    def positions_a_batch(self) -> float:
        """B."""
        return float(self.batch_size)

    def batch(self, number: int) -> Positions:
        """int64[B]."""
        return self.stream.in_lanes(np.arange(number * self.batch_size, (number + 1) * self.batch_size))


def parts(sampling: Sampling, *, start: int, stop: int, rank: int, world_size: int) -> Generator[Positions, None, None]:
    """The rank's part of each global batch, from sample `start` of the run, where a batch begins, to `stop`.

    The parts of all ranks in rank order are the batch. While one is used the next is chosen, in a thread.
    """
    size = sampling.batch_size
    begin, end = share(size, rank=rank, world_size=world_size)
    numbers = range(start // size, -(-stop // size))
    if isinstance(sampling, Uniform):  # there is nothing to choose
        for number in numbers:
            yield sampling.batch(number)[begin:end]
        return
    with ThreadPoolExecutor(1, thread_name_prefix="sampling") as thread:
        coming = thread.submit(sampling.batch, numbers.start)
        for number in numbers:
            chosen = coming.result()
            if number + 1 in numbers:
                coming = thread.submit(sampling.batch, number + 1)
            yield chosen[begin:end]


def chunks(of: Iterator[Positions], size: int) -> Iterator[list[int]]:
    """What data workers load at a time: at most `size` positions of one part."""
    for part in of:
        for low in range(0, len(part), size):
            yield part[low : low + size].tolist()
