"""Where a stretch of an archive begins and ends: at gzip members that surely are records of the archive itself.

    byte `begin` --scan for the magic--> member? --chain of members--> 128 KiB of them, or the file's end: sure
                       ^                   | no
                       `-------------------'

A record may hold bytes that look like members: a page server's own .warc.gz, say, which deflate stores as it is. Such a
run is shorter than 64 KiB, since a stored block is (RFC 1951, section 3.2.4), and what stands between two blocks breaks
it. So members one after the other over twice as much are the archive's. Both sides of a cut ask for the same byte and
find the same member, be the file damaged around it or not: nothing is read twice, or by nobody.
"""

from __future__ import annotations

import sys
import zlib
from typing import BinaryIO, NamedTuple

from pipeline.stages.extract.stretch import Stretch

__all__ = ["Bounds", "bounds_of"]

_MAGIC = b"\x1f\x8b\x08"
_RECORD = b"WARC/1."
_SURE_BYTES = 1 << 17
_READ_BYTES = 1 << 16


class Bounds(NamedTuple):
    """Records from `start`, which is one, and before `stop`."""

    start: int
    stop: int


def bounds_of(file: BinaryIO, stretch: Stretch) -> Bounds | None:
    """What of an open archive lies in the stretch; None where no record begins in it.

    An archive that is no gzip file is not cut: all of it lies in the first stretch.
    """
    if stretch.is_first and stretch.end is None:
        return Bounds(0, sys.maxsize)
    file.seek(0)
    if file.read(len(_MAGIC)) != _MAGIC:
        return Bounds(0, sys.maxsize) if stretch.is_first else None
    start = 0 if stretch.is_first else _sure_member(file, stretch.begin)
    stop = sys.maxsize if stretch.end is None else _sure_member(file, stretch.end)
    return Bounds(start, stop) if start < stop else None


def _sure_member(file: BinaryIO, offset: int) -> int:
    """Where the first member at or after `offset` begins that surely is a record of the archive; far behind the file's
    end where there is none."""
    while True:
        file.seek(offset)
        window = file.read(_READ_BYTES)
        if len(window) < len(_MAGIC):
            return sys.maxsize
        at = window.find(_MAGIC)
        while at >= 0:
            if _is_sure(file, offset + at):
                return offset + at
            at = window.find(_MAGIC, at + 1)
        offset += len(window) - len(_MAGIC) + 1


def _is_sure(file: BinaryIO, offset: int) -> bool:
    """Whether records follow one another from `offset` for long enough, or up to the file's end."""
    end = offset
    while end - offset < _SURE_BYTES:
        following = _end_of_record(file, end)
        if following is None:
            return end > offset and _is_file_end(file, end)
        end = following
    return True


def _is_file_end(file: BinaryIO, offset: int) -> bool:
    file.seek(offset)
    return not file.read(1)


def _end_of_record(file: BinaryIO, offset: int) -> int | None:
    """The byte after the member at `offset`; null where there is none, or it is not the start of a record."""
    file.seek(offset)
    inflate = zlib.decompressobj(wbits=31)
    head = b""
    try:
        while not inflate.eof:
            packed = inflate.unconsumed_tail or file.read(_READ_BYTES)
            if not packed:
                return None
            found = inflate.decompress(packed, _READ_BYTES)
            head += found[: len(_RECORD) - len(head)]
            if not _RECORD.startswith(head):
                return None
    except zlib.error:
        return None
    return file.tell() - len(inflate.unused_data) if head == _RECORD else None
