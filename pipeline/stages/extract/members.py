"""The common form of an archive, read fast: gzip members that each hold one whole WARC record.

    window of the file --next magic--> packed member --libdeflate--> header, block
                                              | anything else
                                              `--> stop; `archive.py` reads on from the last good member

Where a member ends is not written in it; the next one's magic tells. The same bytes may occur inside a
member, so a piece that does not unpack is tried again as far as the next magic. Length and checksum of
every member are tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from deflate import DeflateError, crc32, gzip_decompress

__all__ = ["WholeMembers"]

_MAGIC = b"\x1f\x8b\x08"
_READ_BYTES = 1 << 18
_MAX_PACKED_BYTES = 1 << 26
_MAX_HEADER_BYTES = 1 << 16
_MAX_FALSE_MAGICS = 4
_END = b"\r\n\r\n"
_TYPE = b"\r\nWARC-Type: "
_LENGTH = b"\r\nContent-Length: "


class WholeMembers:
    """Iterates over (offset of its member, block) of the records of one WARC-Type, until a member is not as
    expected."""

    def __init__(self, file: BinaryIO, *, record_type: str, others: set[str], max_record_bytes: int) -> None:
        self._file = file
        self._wanted = record_type.encode()
        self._usual_start = b"WARC/1.0" + _TYPE + self._wanted + b"\r\n"
        self._others = others
        self._max_bytes = max_record_bytes
        self.last: int | None = None
        """Offset of the last member that was read, of whatever type; null if there is none."""
        self.at_end = False
        """Whether that was the last of the file."""

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        self._file.seek(0)
        window = self._file.read(_READ_BYTES)
        if not window.startswith(_MAGIC):
            return
        # Without a time in it, the whole header is alike in all members, and found three times as fast.
        magic = window[:10] if window[4:8] == b"\0\0\0\0" else window[:3]
        ends = False  # no more to read behind the window
        base = at = false_magics = 0
        search_from = len(magic)
        while at < len(window):
            end = window.find(magic, search_from)
            if end < 0 and not ends:
                more = self._file.read(_READ_BYTES)
                search_from = max(len(window) - at - len(magic), search_from - at)
                base += at
                window, at, ends = window[at:] + more, 0, not more
                if len(window) > _MAX_PACKED_BYTES:
                    return
                continue
            if end < 0:
                end = len(window)
            record = self._unpack(window, at, end)
            if record is None:
                false_magics += 1
                if end == len(window) or false_magics > _MAX_FALSE_MAGICS:
                    return
                search_from = end + 1
                continue
            block_at = self._place_of_block(record)
            if block_at is None:
                return
            self.last = base + at
            if block_at:
                yield base + at, bytes(memoryview(record)[block_at:-4])
            at, search_from, false_magics = end, end + len(magic), 0
        self.at_end = True

    def _unpack(self, window: bytes, at: int, end: int) -> bytearray | None:
        checksum, size = window[end - 8 : end - 4], int.from_bytes(window[end - 4 : end], "little")
        if size > self._max_bytes + _MAX_HEADER_BYTES:
            return None
        try:
            record = gzip_decompress(memoryview(window)[at:end], size)
        except DeflateError:
            return None
        # The library does not tell whether it read all. If not, something follows the member, and these differ.
        if len(record) != size or crc32(record) != int.from_bytes(checksum, "little"):
            return None
        return record

    def _place_of_block(self, record: bytearray) -> int | None:
        """Where the block begins; 0 for a record of another type, null for what is no whole record with a
        header in the usual spelling."""
        at_length = record.find(_LENGTH, 0, _MAX_HEADER_BYTES)
        if at_length < 0 or not record.startswith(b"WARC/1."):
            return None
        try:
            length = int(record[at_length + len(_LENGTH) : record.index(b"\r", at_length + 2)])
        except ValueError:
            return None
        head_end = len(record) - length - 8
        if not 0 <= length <= self._max_bytes or not record.endswith(_END):
            return None
        if record.find(_END, at_length, head_end + 4) != head_end:  # else it is several records
            return None
        if record.startswith(self._usual_start):
            return head_end + 4
        at_type = record.find(_TYPE, 0, head_end)
        if at_type < 0:
            return None
        kind = bytes(record[at_type + len(_TYPE) : record.index(b"\r", at_type + 2)])
        if kind == self._wanted:
            return head_end + 4
        self._others.add(kind.decode("latin-1"))
        return 0
