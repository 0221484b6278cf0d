"""The common form of an archive, read fast: gzip members that each hold one whole WARC record.

    window of the file --split at magics--> packed members --libdeflate--> records --heads--> Blocks
                                              | anything else
                                              `--> stop; `archive.py` reads on from the last good member

Where a member ends is not written in it; the next one's magic tells. The same bytes may occur inside a
member, so a piece that does not unpack is tried again as far as the next magic. Length and checksum of
every member are tested.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from deflate import DeflateError, crc32, gzip_decompress

from pipeline.stages.extract.blocks import MAX_BYTES, PADDING, Blocks
from pipeline.stages.extract.heads import find_blocks
from pipeline.stages.extract.member_starts import Bounds

__all__ = ["WholeMembers"]

_MAGIC = b"\x1f\x8b\x08"
_READ_BYTES = 1 << 18
_MAX_PACKED_BYTES = 1 << 26
_MAX_HEADER_BYTES = 1 << 16
_MAX_FALSE_MAGICS = 4
_MIN_MEMBER_BYTES = 18
_read_trailer = struct.Struct("<II").unpack_from


class WholeMembers:
    """Iterates over the blocks of the records of one WARC-Type, many at a time, until a member is not as expected."""

    def __init__(
        self,
        file: BinaryIO,
        *,
        record_type: str,
        others: Counter[str],
        max_record_bytes: int,
        bounds: Bounds,
        most: int = sys.maxsize,
    ) -> None:
        """`most`: of whatever type."""
        self._file = file
        self._bounds = bounds
        self._most = most
        self._wanted = record_type.encode()
        self._others = others
        self._max_bytes = max_record_bytes
        self.last: int | None = None
        """Offset of the last member that was read, of whatever type; null if there is none."""
        self.num_read = 0
        """Members that were read, of whatever type."""
        self.at_end = False
        """Whether that was the last of those that are asked for."""

    def __iter__(self) -> Iterator[Blocks]:
        for offsets, records in self._unpacked():
            data = b"".join([*records, PADDING])
            ends = np.cumsum([len(record) for record in records])
            starts, others = find_blocks(data, ends, wanted=self._wanted, max_bytes=self._max_bytes)
            count = len(starts)
            self.num_read += count
            self._others.update(kind.decode("latin-1") for _, kind in others)
            if count:
                self.last = offsets[count - 1]
            passed_over = {i for i, _ in others}
            found = [i for i in range(count) if i not in passed_over] if passed_over else slice(count)
            if count > len(passed_over):
                kept = [offsets[i] for i in found] if isinstance(found, list) else offsets[found]
                yield Blocks(data, kept, starts[found], ends[found] - 4)
            if count < len(records):
                self.at_end = False
                return

    def _unpacked(self) -> Iterator[tuple[list[int], list[bytearray]]]:
        """Offsets and contents of members, about MAX_BYTES at a time; sets `at_end` after the last that is asked
        for."""
        self._file.seek(self._bounds.start)
        window = self._file.read(_READ_BYTES)
        if not window.startswith(_MAGIC):
            return
        # Without a time in it, the whole header is alike in all members, and found three times as fast.
        magic = window[:10] if window[4:8] == b"\0\0\0\0" else window[:3]
        offsets: list[int] = []
        records: list[bytearray] = []
        offset, num_members, size = self._bounds.start, 0, 0
        ends = False  # no more to read behind the window
        while True:
            pieces = window.split(magic)
            held = b""
            num_false = 0
            for piece in pieces[1:] if ends else pieces[1:-1]:
                packed = held + magic + piece
                record = self._unpack(packed)
                if record is None:
                    held = packed
                    num_false += 1
                    if num_false > _MAX_FALSE_MAGICS:
                        break
                    continue
                offsets.append(offset)
                records.append(record)
                offset += len(packed)
                size += len(record)
                held = b""
                num_false = 0
                num_members += 1
                if offset >= self._bounds.stop or num_members >= self._most:
                    self.at_end = True
                    yield offsets, records
                    return
                if size >= MAX_BYTES:
                    yield offsets, records
                    offsets, records, size = [], [], 0
            if ends or num_false > _MAX_FALSE_MAGICS:
                self.at_end = ends and not held
                break
            window = held + magic + pieces[-1]
            if len(window) > _MAX_PACKED_BYTES:
                break
            more = self._file.read(max(_READ_BYTES, len(window)))
            window += more
            ends = not more
        if records:
            yield offsets, records

    def _unpack(self, packed: bytes) -> bytearray | None:
        """A whole member's content; null if it is none, or more than one."""
        if len(packed) < _MIN_MEMBER_BYTES:
            return None
        checksum, size = _read_trailer(packed, len(packed) - 8)
        if size > self._max_bytes + _MAX_HEADER_BYTES:
            return None
        try:
            record = gzip_decompress(packed, size)
        except DeflateError:
            return None
        # The library does not tell whether it read all. If not, something follows the member, and these differ: unless
        # what comes last holds the very bytes that came first. Then the same trailer stands inside as well.
        if len(record) != size or crc32(record) != checksum:
            return None
        if packed.rfind(packed[-8:], 0, -8) >= 0 and not _is_one_member(packed):
            return None
        return record


def _is_one_member(packed: bytes) -> bool:
    """Whether a whole gzip member ends where `packed` ends; asked where another may begin inside."""
    inflate = zlib.decompressobj(wbits=31)
    rest = packed
    while rest and not inflate.eof:
        inflate.decompress(rest, _READ_BYTES)
        rest = inflate.unconsumed_tail
    return inflate.eof and not inflate.unused_data
