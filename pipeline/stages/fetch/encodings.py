"""Content-Encoding, undone as browsers do: what is known by name and by its bytes; all else is passed through.

Content-Encoding: gzip, aws-chunked      names in the order in which they were applied; undone from the last
body --(unknown: nothing)--> --gzip--> picture

Servers write many things there (`UTF-8`, `binary`, `none`, `image/jpeg`), and name codings that they did not apply. So
a name alone proves nothing, and a body that is a picture as it stands is taken as it is.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Generator, Iterator

import brotli
import zstandard

__all__ = ["TooLargeError", "UndecodableError", "decoded"]

_PIECE_BYTES = 64 * 1024
"""What one step of a decoder gives, about: no more is held beyond the limit."""
_ZSTD_STEP_BYTES = 256
"""zstandard's decoder has no limit for a step; of so many bytes it makes 11 MB at most (a block of 128 KB takes 3)."""
_ZSTD_WINDOW_BYTES = 8 * 1024 * 1024
"""RFC 9659: as content coding, zstd has no larger window."""
_MAX_MEMBERS = 1000
"""Of one body: a file of empty ones makes much work and no bytes."""
_MAX_CODINGS = 5
"""libcurl's and Chromium's limit."""

_GZIP = b"\x1f\x8b"
_ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")  # RFC 8878, sections 3.1.1 and 3.1.2
_PICTURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0|II\x2a\0|MM\0\x2a|\0\0\0.ftyp", re.DOTALL
)


class UndecodableError(Exception):
    """The body is not what its encodings say, nor a picture as it stands."""


class TooLargeError(Exception):
    """More bytes than the limit, after one of the codings or after all."""


def decoded(body: bytes, encodings: str, limit: int) -> bytes:
    """`body` without the codings that the Content-Encoding header `encodings` (joined by commas) names.

    A body that is cut short gives what there is of it, and what follows a coding's end is dropped, as browsers do.
    Raises TooLargeError above `limit` bytes, UndecodableError where nothing or only a damaged part comes out.
    """
    names = [name for name in (each.strip().lower() for each in encodings.split(",")) if name in _DECODERS]
    if len(names) > _MAX_CODINGS:
        raise UndecodableError
    for name in reversed(names):
        if not body or _PICTURE.match(body):
            break
        body = _first_that_works(body, _DECODERS[name], limit)
    return body


_Decoder = Callable[[bytes], Iterator[bytes]]


def _first_that_works(body: bytes, decoders: tuple[_Decoder, ...], limit: int) -> bytes:
    for decode in decoders:
        plain = bytearray()
        try:
            for piece in decode(body):
                plain += piece
                if len(plain) > limit:
                    raise TooLargeError
        except (zlib.error, brotli.error, zstandard.ZstdError):
            continue
        if plain:
            return bytes(plain)
    raise UndecodableError


def _gzip(body: bytes) -> Iterator[bytes]:
    """RFC 1952: one member after the other, up to what is none."""
    if not body.startswith(_GZIP):
        raise zlib.error
    at = 0
    for number in range(_MAX_MEMBERS):
        try:
            at = yield from _inflated(zlib.decompressobj(31), body, at)
        except zlib.error:
            if number:
                return  # only the first bytes were those of a member
            raise
        if not body.startswith(_GZIP, at):
            return


def _zlib(body: bytes) -> Iterator[bytes]:
    yield from _inflated(zlib.decompressobj(15), body, 0)


def _raw_deflate(body: bytes) -> Iterator[bytes]:
    """What some servers call deflate; RFC 9110, section 8.4.1.2, notes it."""
    yield from _inflated(zlib.decompressobj(-15), body, 0)


def _inflated(stream: zlib._Decompress, body: bytes, at: int) -> Generator[bytes, None, int]:
    """What `stream` makes of body[at:]; returns where it ended."""
    while at < len(body) and not stream.eof:
        piece = stream.decompress(body[at : at + _PIECE_BYTES], _PIECE_BYTES)
        at += _PIECE_BYTES
        while piece:
            yield piece
            piece = stream.decompress(stream.unconsumed_tail, _PIECE_BYTES)
    return min(at, len(body)) - len(stream.unused_data)


def _brotli(body: bytes) -> Iterator[bytes]:
    """RFC 7932."""
    stream = brotli.Decompressor()
    piece = stream.process(body, output_buffer_limit=_PIECE_BYTES)
    while piece:  # `can_accept_more_data` of brotli 1.2.1 says yes with much still to come
        yield piece
        piece = b"" if stream.is_finished() else stream.process(b"", output_buffer_limit=_PIECE_BYTES)


def _zstd(body: bytes) -> Iterator[bytes]:
    """RFC 8878: one frame after the other, up to what is none."""
    if not _ZSTD.match(body):
        raise zstandard.ZstdError
    at = 0
    for number in range(_MAX_MEMBERS):
        frame = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj()
        try:
            while at < len(body) and not frame.eof:
                yield frame.decompress(body[at : at + _ZSTD_STEP_BYTES])
                at += _ZSTD_STEP_BYTES
        except zstandard.ZstdError:
            if number:
                return
            raise
        at = min(at, len(body)) - len(frame.unused_data)
        if not _ZSTD.match(body, at):
            return


_DECODERS: dict[str, tuple[_Decoder, ...]] = {
    "gzip": (_gzip,),
    "x-gzip": (_gzip,),  # RFC 9110, section 8.4.1.3
    "deflate": (_zlib, _raw_deflate),
    "br": (_brotli,),
    "zstd": (_zstd,),
}
