"""Reading many files one after the other, where each must first come from far away."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from pipeline.storage.bucket import is_bucket_url
from pipeline.storage.location import Location

__all__ = ["read_each"]

_AHEAD = 8
T = TypeVar("T")


def read_each(files: Iterable[Location], read: Callable[[Location], T]) -> Iterator[T]:
    """`read` of each file, in their order. Of those in a bucket eight are under way at a time, and so many results
    held; those of a disk are read as they are asked for. Raises what `read` raises."""
    with ThreadPoolExecutor(_AHEAD) as readers:  # no thread starts before it is needed
        under_way: deque[Future[T]] = deque()
        for file in files:
            if not under_way and not is_bucket_url(file.path):
                yield read(file)
                continue
            under_way.append(readers.submit(read, file))
            if len(under_way) == _AHEAD:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
