"""Holes: ranges of a file whose room on the disk is given back. They read as zeros, and the file keeps its size.

Linux alone, on ext4, XFS, btrfs, tmpfs and NFS 4.2; elsewhere nothing is given back.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

__all__ = ["can_punch", "merged", "punch", "room_of"]

_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02  # of linux/falloc.h
_UNABLE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY)
_STAT_BLOCK = 512
"""The unit of `st_blocks`, whatever the file system's own."""


def can_punch(directory: Path) -> bool:
    """Whether files in `directory` can have holes made into them. Tried on a file of its own."""
    probe = directory / f".holes-{os.getpid()}"
    try:
        probe.write_bytes(b"\1" * 4096)
        punch(probe, [(0, 4096)])
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True


def punch(path: Path, ranges: Iterable[tuple[int, int]]) -> None:
    """Give back the room of each (offset, size) of the file: whole blocks of the file system go, and the rest of a
    range becomes zero. Raises OSError, with EOPNOTSUPP where that cannot be done here."""
    with path.open("r+b") as file:
        for offset, size in ranges:
            _fallocate()(file.fileno(), offset, size)


def merged(ranges: Iterable[tuple[int, int]], *, gap: int) -> Iterator[tuple[int, int]]:
    """The (offset, size) ranges in order, those that lie at most `gap` bytes apart as one."""
    begin = end = -1
    for offset, size in sorted(ranges):
        if begin >= 0 and offset - end <= gap:
            end = max(end, offset + size)
            continue
        if begin >= 0:
            yield begin, end - begin
        begin, end = offset, offset + size
    if begin >= 0:
        yield begin, end - begin


def room_of(path: Path) -> int:
    """Bytes that the file takes on the disk."""
    return path.stat().st_blocks * _STAT_BLOCK


@functools.cache
def _fallocate() -> Callable[[int, int, int], None]:
    """Python has no call for it."""
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

    def fallocate(descriptor: int, offset: int, size: int) -> None:
        if call(descriptor, _PUNCH_HOLE | _KEEP_SIZE, offset, size):
            number = ctypes.get_errno()
            number = errno.EOPNOTSUPP if number in _UNABLE else number
            raise OSError(number, os.strerror(number))

    return fallocate
