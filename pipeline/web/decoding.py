"""Decoders of the codings of the web, a piece at a time, so that nothing is ever held that a bomb unpacks to.

    data, at --Decoder.unpack, again and again--> pieces, where the member ended      one member, frame or stream
    data, at --members--> pieces of one after the other, where the last one ended

They know one coding each. What is tried when, what a byte means that belongs to none, and how much is too much is for
the callers to say: a download (`stages/fetch/encodings.py`), a stored answer (`stages/extract/http_message.py`), a
table (`stages/extract/tables/unpack.py`).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Generator
from typing import Protocol

import brotli
import zstandard

__all__ = ["GZIP", "ZSTD", "Brotli", "DamagedError", "Decoder", "Inflate", "Unzstd", "members", "pieces"]

GZIP = re.compile(rb"\x1f\x8b\x08")
"""How a gzip member begins; 8 is deflate, and there is no other method (RFC 1952, section 2.3.1)."""
ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")
"""How a Zstandard frame begins, or one that is to be skipped (RFC 8878, sections 3.1.1 and 3.1.2)."""

_PIECE_BYTES = 1 << 18
"""What one step takes and gives, about."""
_ZSTD_STEP_BYTES = 1 << 8
"""zstandard's decoder has no limit for what a step gives; of so many bytes it makes 11 MB at most (a block of 128 KB
takes 3)."""
_MAX_MEMBERS = 1000
"""Of one body: a file of empty ones makes much work and no bytes."""


class DamagedError(ValueError):
    """The data is not of this coding, or not whole; the message is the library's."""

    def __init__(self, told: str, *, member: int = 0) -> None:
        super().__init__(told)
        self.member = member
        """Which of `members` it is, from 0."""


class Decoder(Protocol):
    """Unpacks one member, frame or stream."""

    @property
    def at_end(self) -> bool:
        """Whether it is whole; what follows is none of its own."""

    def unpack(self, data: bytes, at: int) -> tuple[bytes, int]:
        """(some of what data[at:] holds, where to go on). Raises DamagedError.

        It takes or gives something each time while there is something. Nothing, at the end of `data`, means that more
        is needed.
        """


class Inflate:
    """Deflate in one of its frames, by zlib's `wbits`."""

    GZIP, ZLIB, RAW = 31, 15, -15

    def __init__(self, wbits: int) -> None:
        self._stream = zlib.decompressobj(wbits)

    @property
    def at_end(self) -> bool:
        """As `Decoder` says."""
        return self._stream.eof

    def unpack(self, data: bytes, at: int) -> tuple[bytes, int]:
        """As `Decoder` says."""
        taken = data[at : at + _PIECE_BYTES]
        try:
            found = self._stream.decompress(taken, _PIECE_BYTES)
        except zlib.error as error:
            raise DamagedError(str(error)) from error
        left = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
        return found, at + len(taken) - len(left)


class Unzstd:
    """One Zstandard frame; one that is to be skipped gives nothing."""

    def __init__(self, max_window_bytes: int = 0) -> None:
        """`max_window_bytes`: a frame that wants more is damaged; 0 for what the library allows, 128 MiB."""
        self._frame = zstandard.ZstdDecompressor(max_window_size=max_window_bytes).decompressobj()
        self._damage = ""

    @property
    def at_end(self) -> bool:
        """As `Decoder` says."""
        return bool(self._frame.eof)

    def unpack(self, data: bytes, at: int) -> tuple[bytes, int]:
        """As `Decoder` says."""
        frame, found = self._frame, bytearray()
        try:
            while not self._damage and len(found) < _PIECE_BYTES and at < len(data) and not frame.eof:
                found += frame.decompress(data[at : at + _ZSTD_STEP_BYTES])
                at += _ZSTD_STEP_BYTES
        except zstandard.ZstdError as error:
            self._damage = str(error)
        if self._damage and not found:  # what came before it is handed out first
            raise DamagedError(self._damage)
        return bytes(found), min(at, len(data)) - len(frame.unused_data)


class Brotli:
    """A brotli stream (RFC 7932). It has no magic, and bytes behind its end are damage."""

    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    @property
    def at_end(self) -> bool:
        """As `Decoder` says."""
        return bool(self._stream.is_finished())

    def unpack(self, data: bytes, at: int) -> tuple[bytes, int]:
        """As `Decoder` says; all of the data is taken at once, and kept inside."""
        try:
            return self._stream.process(data[at:], output_buffer_limit=_PIECE_BYTES), len(data)
        except brotli.error as error:
            raise DamagedError(str(error)) from error


def pieces(decoder: Decoder, data: bytes, at: int = 0) -> Generator[bytes, None, int]:
    """What `decoder` makes of data[at:], none of the pieces empty; returns where its member ended.

    Data that is cut short gives what there is of it. Raises DamagedError, also where that is nothing.
    """
    is_empty = True
    while not decoder.at_end:
        found, at = decoder.unpack(data, at)
        if found:
            is_empty = False
            yield found
        elif at == len(data) and not decoder.at_end:
            if is_empty:
                raise DamagedError("cut short before the first byte")
            break
    return at


def members(data: bytes, magic: re.Pattern[bytes], new_decoder: Callable[[], Decoder]) -> Generator[bytes, None, int]:
    """What the members at the beginning of `data` hold, each where `magic` matches; returns where the last one ended.

    The last may be cut short. Raises DamagedError with its number, and where there are more than a thousand.
    """
    at = 0
    for number in range(_MAX_MEMBERS):
        if not magic.match(data, at):
            if not number:
                raise DamagedError("its first bytes are not there")
            return at
        try:
            at = yield from pieces(new_decoder(), data, at)
        except DamagedError as error:
            raise DamagedError(str(error), member=number) from error
    if magic.match(data, at):
        raise DamagedError(f"more than {_MAX_MEMBERS:,} members", member=_MAX_MEMBERS)
    return at
