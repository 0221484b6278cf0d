"""Content-Encoding, undone as browsers do: what is known by name and by its bytes; all else is passed through.

Content-Encoding: gzip, aws-chunked      names in the order in which they were applied; undone from the last
body --(unknown: nothing)--> --gzip--> picture

Servers write many things there (`UTF-8`, `binary`, `none`, `image/jpeg`), and name codings that they did not apply. So
a name alone proves nothing, and a body that is a picture as it stands is taken as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

from pipeline.web.decoding import GZIP, ZSTD, Brotli, DamagedError, Decoder, Inflate, Unzstd, members, pieces

__all__ = ["TooLargeError", "UndecodableError", "decoded"]

_ZSTD_WINDOW_BYTES = 8 * 1024 * 1024
"""RFC 9659: as content coding, zstd has no larger window."""
_MAX_CODINGS = 5
"""libcurl's and Chromium's limit."""

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


_Undo = Callable[[bytes], Iterator[bytes]]


def _first_that_works(body: bytes, codings: tuple[_Undo, ...], limit: int) -> bytes:
    for undo in codings:
        plain = bytearray()
        try:
            for piece in undo(body):
                plain += piece
                if len(plain) > limit:
                    raise TooLargeError
        except DamagedError:
            continue
        if plain:
            return bytes(plain)
    raise UndecodableError


def _one(new_decoder: Callable[[], Decoder], body: bytes) -> Iterator[bytes]:
    yield from pieces(new_decoder(), body)


def _several(magic: re.Pattern[bytes], new_decoder: Callable[[], Decoder], body: bytes) -> Iterator[bytes]:
    """Members up to what is none, also where its first bytes are those of one."""
    try:
        yield from members(body, magic, new_decoder)
    except DamagedError as error:
        if not error.member:
            raise


_GZIP = partial(_several, GZIP, partial(Inflate, Inflate.GZIP))
_DECODERS: dict[str, tuple[_Undo, ...]] = {
    "gzip": (_GZIP,),
    "x-gzip": (_GZIP,),  # RFC 9110, section 8.4.1.3
    # What some servers call deflate has no frame; RFC 9110, section 8.4.1.2, notes it.
    "deflate": (partial(_one, partial(Inflate, Inflate.ZLIB)), partial(_one, partial(Inflate, Inflate.RAW))),
    "br": (partial(_one, Brotli),),
    "zstd": (partial(_several, ZSTD, partial(Unzstd, _ZSTD_WINDOW_BYTES)),),
}
