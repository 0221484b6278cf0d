"""A sample's members in a tar, made into one that no reader takes for a sample; every other byte stays where it is.

    000017.jpg 000017.json 000017.txt --> __removed__, as large as the three with their headers, all zeros

A name without a dot has no extension, so WebDataset, open_clip, `datasets` and our own readers pass it over (webdataset
`tariterators.py`: `base_plus_ext`, and its `skip_meta` for names in double underscores); tar itself sees a plain file.
The room is given back where the file system has holes. Blanking twice is blanking once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.errors import DamagedFileError
from pipeline.records.shard import REMOVED_MEMBER
from pipeline.storage.holes import punch
from pipeline.storage.tar import header_of

__all__ = ["blank_ranges", "blank_samples"]

_BLOCK = 512
_MEMBERS = 3
"""Of a sample: picture, .json, .txt (`records/shard.py`)."""
_ZEROS = bytes(1 << 20)


def blank_samples(tar: Path, offsets: Iterable[int]) -> int:
    """Blank the samples whose pictures are at `offsets`; returns how many bytes they took, headers among them.

    Durable when it returns. Raises DamagedFileError where no sample is there.
    """
    with tar.open("r+b") as file:
        extents = [_extent(file.fileno(), offset, tar) for offset in sorted(offsets)]
        for begin, size in extents:  # first: it tells where the zeros end, should this be cut short
            os.pwrite(file.fileno(), header_of(REMOVED_MEMBER, size - _BLOCK), begin)
        os.fsync(file.fileno())
    blank_ranges(tar, ((begin + _BLOCK, size - _BLOCK) for begin, size in extents))
    return sum(size for _, size in extents)


def blank_ranges(path: Path, ranges: Iterable[tuple[int, int]]) -> None:
    """Make each (offset, size) zeros, and durable. Raises OSError."""
    ranges = list(ranges)
    try:
        punch(path, ranges)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        with path.open("r+b") as file:
            for offset, size in ranges:
                file.seek(offset)
                for piece in _zeros(size):
                    file.write(piece)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _zeros(size: int) -> Iterator[bytes]:
    while size > 0:
        yield _ZEROS[:size]
        size -= len(_ZEROS)


def _extent(descriptor: int, offset: int, tar: Path) -> tuple[int, int]:
    """(begin, size) of the sample whose picture is at `offset`: of its members, headers and padding."""
    begin = at = offset - _BLOCK
    key = None
    for _ in range(_MEMBERS):
        member = None
        with contextlib.suppress(tarfile.TarError):
            member = tarfile.TarInfo.frombuf(os.pread(descriptor, _BLOCK, at), "utf-8", "surrogateescape")
        stem = None if member is None else member.name.partition(".")[0]
        if member is None or (key is not None and stem != key):
            raise DamagedFileError(str(tar), f"no sample is at byte {begin}")
        key = stem
        at += _BLOCK + member.size + -member.size % _BLOCK
        if member.name == REMOVED_MEMBER:
            break
    return begin, at - begin
