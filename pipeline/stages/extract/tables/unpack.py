"""The bytes behind gzip or Zstandard, read past what belongs to neither.

    member | member | \\r\\n | member | zeros      members one after the other are one stream (RFC 1952, RFC 8878)
                      ^ counted, passed over

Python's gzip module and Arrow's Zstandard both stop at the first byte that starts no member, and lose what they
had unpacked but not handed out yet.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import BinaryIO, Protocol

from pipeline.web.decoding import GZIP, ZSTD, DamagedError, Decoder, Inflate, Unzstd

__all__ = ["Bytes", "unpacked"]

_READ_BYTES = 1 << 16
_MAGIC_BYTES = 4


class Bytes(Protocol):
    """A stream of bytes, and what had to be left out of it."""

    strays: int
    """Bytes so far that belong to no compressed member."""

    def read(self, size: int) -> bytes:
        """Some bytes, about `size` at most; none at the end.

        Raises EOFError where the stream ends in the middle of a member, ValueError where it is damaged, and OSError
        where the storage fails.
        """


def unpacked(file: BinaryIO) -> Bytes:
    """What is behind `file`, told by its first bytes rather than by its name."""
    first = file.read(_MAGIC_BYTES)
    file.seek(0)
    if GZIP.match(first):
        return _Members(file, GZIP, partial(Inflate, Inflate.GZIP))
    if ZSTD.match(first):
        return _Members(file, ZSTD, Unzstd)
    return _Plain(file)


class _Plain:
    strays = 0

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        return self._file.read(size)


class _Members:
    def __init__(self, file: BinaryIO, magic: re.Pattern[bytes], new_decoder: Callable[[], Decoder]) -> None:
        self._file = file
        self._magic = magic
        self._new_decoder = new_decoder
        self._decoder: Decoder | None = None
        self._data = b""
        self._at = 0  # of _data: what is before it has been unpacked or passed over
        self._doubtful = False  # the member was found among strays, and may be none
        self._doubted_bytes = 0  # of the member so far
        self.strays = 0

    def read(self, size: int) -> bytes:
        """As `Bytes` says; a decoder's piece at a time, whatever the size."""
        while True:
            decoder = self._decoder or self._next_member()
            if decoder is None:
                return b""
            if self._at == len(self._data) and not self._fill():
                if not self._doubtful:
                    raise EOFError("the compressed file ends in the middle")
                self._decoder = None
                self.strays += self._doubted_bytes
                return b""
            before = self._at
            try:
                found, self._at = decoder.unpack(self._data, before)
            except DamagedError:
                if not self._doubtful:
                    raise
                self._decoder = None
                self._pass_over(1)
                continue
            self._doubtful = self._doubtful and not found
            self._doubted_bytes += self._at - before
            self._decoder = None if decoder.at_end else decoder
            if found:
                return found

    def _fill(self) -> bool:
        more = self._file.read(_READ_BYTES)
        self._data, self._at = self._data[self._at :] + more, 0
        return bool(more)

    def _next_member(self) -> Decoder | None:
        """Where the next member begins; what stands before it is passed over. None at the end of the file."""
        while True:
            found = self._magic.search(self._data, self._at)
            if found is not None:
                self._doubtful = self._doubtful or found.start() > self._at
                self._pass_over(found.start() - self._at)
                self._doubted_bytes = 0
                self._decoder = self._new_decoder()
                return self._decoder
            num_left = len(self._data) - self._at
            self._doubtful = self._doubtful or num_left >= _MAGIC_BYTES
            self._pass_over(max(num_left - _MAGIC_BYTES + 1, 0))
            if not self._fill():
                self._pass_over(len(self._data))
                return None

    def _pass_over(self, size: int) -> None:
        """Leave out the next bytes. Zeros pad an archive, and are not counted."""
        self.strays += size - self._data.count(0, self._at, self._at + size)
        self._at += size
