"""The bytes behind gzip or Zstandard, read past what belongs to neither.

    member | member | \\r\\n | member | zeros      members one after the other are one stream (RFC 1952, RFC 8878)
                      ^ counted, passed over

Python's gzip module and Arrow's Zstandard both stop at the first byte that starts no member, and lose what they
had unpacked but not handed out yet.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

import zstandard

__all__ = ["Bytes", "unpacked"]

_READ_BYTES = 1 << 16
_GZIP = re.compile(rb"\x1f\x8b\x08")
_ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")  # a frame, or one to be skipped (pzstd's tables)
_MAGIC_BYTES = 4
_ZSTD_SLICE_BYTES = 1 << 10
"""What is given to Zstandard at once: a block of 128 KiB may stand in 4 bytes, so 32 MiB may come of it."""


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
    if _GZIP.match(first):
        return _Members(file, _GZIP, lambda _: _Inflate())
    if _ZSTD.match(first):
        return _Members(file, _ZSTD, lambda magic: _Unzstd() if magic[0] == 0x28 else _Skipped())
    return _Plain(file)


class _Plain:
    strays = 0

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        return self._file.read(size)


class _Decoder(Protocol):
    """Unpacks one member."""

    def unpack(self, data: bytes, size: int) -> tuple[bytes, bytes]:
        """(some of what `data` holds, the rest of `data`). Raises ValueError where it is damaged."""

    @property
    def at_end(self) -> bool:
        """Whether the member is whole; the rest is then what follows it."""


class _Inflate:
    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)

    def unpack(self, data: bytes, size: int) -> tuple[bytes, bytes]:
        try:
            found = self._inflate.decompress(data, size)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        return found, self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail

    @property
    def at_end(self) -> bool:
        return self._inflate.eof


class _Unzstd:
    def __init__(self) -> None:
        self._frame = zstandard.ZstdDecompressor().decompressobj()

    def unpack(self, data: bytes, size: int) -> tuple[bytes, bytes]:
        piece, rest = data[:_ZSTD_SLICE_BYTES], data[_ZSTD_SLICE_BYTES:]
        try:
            found = self._frame.decompress(piece)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
        return found, self._frame.unused_data + rest if self._frame.eof else rest

    @property
    def at_end(self) -> bool:
        return self._frame.eof


class _Skipped:
    """A Zstandard frame without content: magic, length (uint32), bytes for somebody else."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 8

    def unpack(self, data: bytes, size: int) -> tuple[bytes, bytes]:
        if len(self._head) < 8:
            self._head += data[: 8 - len(self._head)]
            if len(self._head) == 8:
                self._left += int.from_bytes(self._head[4:], "little")
        taken = min(self._left, len(data))
        self._left -= taken
        return b"", data[taken:]

    @property
    def at_end(self) -> bool:
        return not self._left


class _Members:
    def __init__(self, file: BinaryIO, magic: re.Pattern[bytes], new_decoder: Callable[[bytes], _Decoder]) -> None:
        self._file = file
        self._magic = magic
        self._new_decoder = new_decoder
        self._decoder: _Decoder | None = None
        self._data = b""  # read, not unpacked yet
        self._doubtful = False  # the member was found among strays, and may be none
        self._doubted_bytes = 0  # of the member so far
        self.strays = 0

    def read(self, size: int) -> bytes:
        while True:
            decoder = self._decoder or self._next_member()
            if decoder is None:
                return b""
            if not self._data and not self._fill():
                if not self._doubtful:
                    raise EOFError("the compressed file ends in the middle")
                self._decoder = None
                self.strays += self._doubted_bytes
                return b""
            before = self._data
            try:
                found, self._data = decoder.unpack(before, size)
            except ValueError:
                if not self._doubtful:
                    raise
                self._decoder = None
                self._pass_over(1, before)
                continue
            self._doubtful = self._doubtful and not found
            self._doubted_bytes += len(before) - len(self._data)
            self._decoder = None if decoder.at_end else decoder
            if found:
                return found

    def _fill(self) -> bool:
        more = self._file.read(_READ_BYTES)
        self._data += more
        return bool(more)

    def _next_member(self) -> _Decoder | None:
        """Where the next member begins; what stands before it is passed over. None at the end of the file."""
        while True:
            found = self._magic.search(self._data)
            if found is not None:
                self._doubtful = self._doubtful or found.start() > 0
                self._pass_over(found.start(), self._data)
                self._doubted_bytes = 0
                self._decoder = self._new_decoder(found[0])
                return self._decoder
            self._doubtful = self._doubtful or len(self._data) >= _MAGIC_BYTES
            self._pass_over(max(len(self._data) - _MAGIC_BYTES + 1, 0), self._data)
            if not self._fill():
                self._pass_over(len(self._data), self._data)
                return None

    def _pass_over(self, size: int, data: bytes) -> None:
        """Leave out the first bytes of `data`. Zeros pad an archive, and are not counted."""
        self.strays += size - data.count(0, 0, size)
        self._data = data[size:]
