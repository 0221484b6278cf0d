"""The shards that a rank is about to read from a bucket, as files of this machine: copied ahead, removed behind.

    batches to come --which shards--> copies, several at a time --> DIRECTORY/NAME.tar --data workers--> pictures
                                                                        gone once no batch needs it

The rank's main process copies: the data workers, which are forks of a server, never use the client of buckets, and get
no position before its shard is there. So an error is raised where the loop waits for its batch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import xxhash

from pipeline.storage.bucket import BucketPath, is_bucket_url
from training.data.download import download
from training.data.index import SampleIndex
from training.errors import DataError

__all__ = ["ShardCopies", "Tar", "copy_name", "tar_of"]

_COPIES = 8
"""At a time."""


class Tar(NamedTuple):
    """The version of a tar that an index knows."""

    path: str
    num_bytes: int
    sha256: str | None
    e_tag: str


def tar_of(index: SampleIndex, shard: int) -> Tar:
    """What `index` says of a shard."""
    return Tar(index.paths[shard], index.tar_bytes[shard], *index.versions[shard])


def copy_name(tar: Tar) -> str:
    """File name of the copy: that of one version, by which the data workers find it."""
    return f"{xxhash.xxh3_64_hexdigest(repr(tuple(tar)).encode())}.tar"


@dataclass
class _Copy:
    num_bytes: int
    last_batch: int
    """The last one that is known to need it."""
    done: Future[None]


class ShardCopies:
    """Keeps the copies that the next batches need, and no more than may be held."""

    def __init__(self, directory: Path, needs: Iterator[Sequence[Tar]], *, max_bytes: int, batches_ahead: int) -> None:
        """`needs`: the tars of each batch, in order; those on a disk are left alone.

        Copies that lie in `directory` already are used. At most `batches_ahead` batches beyond the one that is waited
        for are prepared.
        """
        self._directory = directory
        self._needs = enumerate(needs)
        self._next: tuple[int, list[Tar]] | None = None
        self._planned: deque[tuple[int, list[Tar]]] = deque()
        self._max_bytes = max_bytes
        self._ahead = batches_ahead
        self._held: dict[str, _Copy] = {}
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(_COPIES, thread_name_prefix="shards")
        for path in directory.glob("*.tar"):
            there: Future[None] = Future()
            there.set_result(None)
            self._held[path.name] = _Copy(path.stat().st_size, -1, there)

    @property
    def num_bytes(self) -> int:
        """What the copies take that are there or on their way."""
        return sum(copy.num_bytes for copy in self._held.values())

    def wait_for(self, batch: int) -> None:
        """Until the tars of `batch` are there. Raises DataError where one is gone or changed, or they are too many."""
        self._plan(batch)
        while self._planned and self._planned[0][0] < batch:
            self._planned.popleft()
        for number, tars in self._planned:
            if number != batch:
                break
            for tar in tars:
                self._held[copy_name(tar)].done.result()

    def finished(self, batch: int) -> None:
        """`batch` and those before it are read: remove what is not needed any more, and go on copying."""
        upcoming = self._peek()
        kept = {copy_name(tar) for tar in upcoming[1]} if upcoming is not None else set()
        over = [name for name, copy in self._held.items() if copy.last_batch <= batch and copy.done.done()]
        for name in over:
            if name not in kept:
                self._remove(name)
        self._plan(batch + 1, must=False)

    def close(self) -> None:
        """Stop copying; the copies stay."""
        self._over.set()
        for copy in self._held.values():
            copy.done.cancel()
        wait([copy.done for copy in self._held.values() if not copy.done.cancelled()])
        self._pool.shutdown()

    def _peek(self) -> tuple[int, list[Tar]] | None:
        """The first batch that is not planned yet, and its tars in a bucket."""
        if self._next is None and (found := next(self._needs, None)) is not None:
            self._next = (found[0], [tar for tar in found[1] if is_bucket_url(tar.path)])
        return self._next

    def _plan(self, batch: int, *, must: bool = True) -> None:
        """Begin the copies of the batches from the first one that is not planned on: `batch` if it `must` be, then as
        many as there is room for."""
        while (found := self._peek()) is not None and found[0] <= batch + self._ahead:
            number, tars = found
            new = {copy_name(tar): tar for tar in tars if copy_name(tar) not in self._held}
            size = sum(tar.num_bytes for tar in new.values())
            if new and self.num_bytes + size > self._max_bytes:
                if not must or number > batch:
                    return
                self._make_room(number, tars, size)
            for name, tar in new.items():
                self._held[name] = _Copy(tar.num_bytes, number, self._pool.submit(self._copy, name, tar))
            for tar in tars:
                self._held[copy_name(tar)].last_batch = number
            self._planned.append(found)
            self._next = None

    def _make_room(self, batch: int, tars: Sequence[Tar], size: int) -> None:
        """Remove copies that no batch before `batch` needs; all before have been waited for, and some not yet read.

        Raises DataError where the tars of `batch` and of those not yet read are more than may be held.
        """
        needed = {copy_name(tar) for tar in tars}
        for name in [name for name, copy in self._held.items() if copy.last_batch < 0 and name not in needed]:
            self._remove(name)
        if self.num_bytes + size > self._max_bytes:
            raise DataError(
                f"the {len(tars)} shards that this rank has open, with those still in use, take "
                f"{(self.num_bytes + size) / 1e9:.3g} GB, and data.scratch_gb allows {self._max_bytes / 1e9:g}; raise "
                "it, or start a new run with a smaller --data.window"
            )

    def _copy(self, name: str, tar: Tar) -> None:
        temporary = self._directory / f"{name}.tmp"
        _, num_bytes, sha256, e_tag = tar
        path = BucketPath.of(tar.path)
        download(path, temporary, num_bytes=num_bytes, sha256=sha256, e_tag=e_tag, is_over=self._over.is_set)
        temporary.rename(self._directory / name)

    def _remove(self, name: str) -> None:
        del self._held[name]
        (self._directory / name).unlink(missing_ok=True)
