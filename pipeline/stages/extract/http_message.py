"""An HTTP answer as a crawler stored it: its headers, and its body with all codings undone.

    block --parse_answer--> headers, body --unpack--> dechunk --> last content coding --> ... --> first --> by magic

What stands in an archive is what a server sent, or what a crawler made of it: header lines may end in LF, bodies may be
dechunked or unpacked already under the headers of before, or packed under another name or none. So each layer is undone
by what the bytes are; the header's names only say where to look for it. All decoding stops at a limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from pipeline.stages.extract.media_type import holds_binary
from pipeline.web.decoding import GZIP, ZSTD, Brotli, DamagedError, Decoder, Inflate, Unzstd, members, pieces

__all__ = ["Answer", "OversizedBodyError", "UnreadableAnswerError", "parse_answer", "starts_answer", "unpack"]


class UnreadableAnswerError(ValueError):
    """The block is no HTTP answer, or its body cannot be unpacked; the message says which."""


class OversizedBodyError(ValueError):
    """Some layer of the body is larger, unpacked, than the limit."""


class Answer(NamedTuple):
    """A parsed answer."""

    headers: Sequence[tuple[str, str]]
    """Names in lower case, and values; in their order."""
    body: bytes

    def values(self, name: str) -> list[str]:
        """The values of all headers of one name, which is in lower case."""
        return [value for found, value in self.headers if found == name]

    def codings(self) -> list[str]:
        """What was done to the body, in that order, in lower case (RFC 9110, section 8.4; RFC 9112, section 6.1)."""
        named = [*self.values("content-encoding"), *self.values("transfer-encoding")]
        return [coding for value in named for word in value.split(",") if (coding := word.strip(' \t"').lower())]


# --- the header -------------------------------------------------------------------------------

_MAX_HEADER_BYTES = 1 << 18  # Chromium's
_MAX_INTERIM_ANSWERS = 8
_START = re.compile(rb"[\r\n]*HTTP/", re.IGNORECASE)
_INTERIM = re.compile(r"HTTP/\S*[ \t]+1\d\d", re.IGNORECASE)
_END = re.compile(rb"\n\r?\n|\n(?=<)")
"""An empty line; or the page itself where that is missing, since no header begins with an angle bracket."""


def starts_answer(block: bytes) -> bool:
    """Whether a status line is there."""
    return _START.match(block) is not None


def parse_answer(block: bytes) -> Answer:
    """The final answer of a block, whose lines may end in CRLF or LF alone (RFC 9112, section 2.2).

    Interim answers (100 Continue) before it are passed over; lines that are no headers are too. Raises
    UnreadableAnswerError where the header does not end.
    """
    lines, body_start = _header_at(block, 0)
    for _ in range(_MAX_INTERIM_ANSWERS):
        if _INTERIM.match(lines[0]) is None or _START.match(block, body_start) is None:
            break
        lines, body_start = _header_at(block, body_start)
    headers: list[tuple[str, str]] = []
    for line in lines[1:]:
        if line[:1] in (" ", "\t") and headers:  # folded (RFC 9112, section 5.2)
            name, value = headers[-1]
            headers[-1] = name, f"{value} {line.strip()}"
            continue
        name, colon, value = line.partition(":")
        if colon:
            headers.append((name.strip().lower(), value.strip()))
    return Answer(headers, block[body_start:])


def _header_at(block: bytes, start: int) -> tuple[list[str], int]:
    """The lines of a header, the status line first, and where the body begins."""
    while block[start : start + 1] in (b"\r", b"\n"):
        start += 1
    end = _END.search(block, start, start + _MAX_HEADER_BYTES)
    if end is None:
        raise UnreadableAnswerError("the HTTP header does not end")
    return block[start : end.start()].decode("latin-1").split("\n"), end.end()


# --- the body ---------------------------------------------------------------------------------

_MAX_LAYERS = 8
_MAX_ZSTD_WINDOW_BYTES = 1 << 23  # RFC 9659
_MAX_OVERHEAD_BYTES = 64
"""What packing may add to a text that cannot be packed."""
_GZIP, _ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
_MARKS = (_GZIP, _ZSTD, b"\xff\xfe", b"\xfe\xff")
"""Of what is no text at first sight, yet may hold one: packed again, or UTF-16."""
_DEFLATE_NAMES = ("gzip", "x-gzip", "deflate")
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?[\t\n\f\r ]*<")
_CHUNK = re.compile(rb"(?:\r?\n)?[ \t]*([0-9a-fA-F]{1,16})[ \t]*(?:;[^\n]*)?\r?\n")
_CUT_CHUNK = re.compile(rb"\r?\n?[ \t]*[0-9a-fA-F]{0,16}[ \t]*(?:;[^\n]*)?\r?")


def unpack(answer: Answer, max_bytes: int) -> bytes:
    """The body with every layer undone that is there. Codings that are not known are left as they are.

    A body that is cut short gives what it holds. Raises OversizedBodyError where a layer comes to more than
    `max_bytes`, and UnreadableAnswerError where one is damaged.
    """
    body = answer.body
    codings = answer.codings()
    if len(codings) > _MAX_LAYERS:
        raise UnreadableAnswerError(f"{len(codings)} codings of the body")
    for coding in reversed(codings):
        body = _dechunk(body) if coding == "chunked" else _undo(coding, body, max_bytes)
    for _ in range(_MAX_LAYERS):
        if not body.startswith((_GZIP, _ZSTD)) and not _is_zlib(body):
            return body
        unpacked = _undo("", body, max_bytes)
        if unpacked is body:
            return body
        body = unpacked
    raise UnreadableAnswerError("packed again and again")


def _dechunk(body: bytes) -> bytes:
    """A chunked body put together (RFC 9112, section 7.1); itself where it does not begin with the size of a chunk."""
    chunks: list[bytes] = []
    at = 0
    while at < len(body):
        head = _CHUNK.match(body, at)
        if head is None:
            if not chunks:
                return body
            if _CUT_CHUNK.fullmatch(body, at) is not None:
                break
            raise UnreadableAnswerError(f"the chunks break off at byte {at} of {len(body)}")
        size = int(head[1], 16)
        if size == 0:
            if not chunks and body[head.end() :].strip():
                return body  # a text that begins so
            break
        at = head.end() + size
        chunks.append(body[head.end() : at])
    return b"".join(chunks)


def _undo(coding: str, body: bytes, max_bytes: int) -> bytes:
    """One content coding undone; `body` itself where it is not there, or not known.

    Gzip and Zstandard may be of several members; what follows them is ignored, as browsers do.
    """
    if body.startswith(_GZIP):
        return _all_members("gzip", GZIP, partial(Inflate, Inflate.GZIP), body, max_bytes)
    if body.startswith(_ZSTD):
        return _all_members("zstd", ZSTD, partial(Unzstd, _MAX_ZSTD_WINDOW_BYTES), body, max_bytes)
    if _is_zlib(body):
        return _stream_if_it_is_one(Inflate(Inflate.ZLIB), body, max_bytes)
    if not body or _MARKUP.match(body) is not None:
        return body  # has been unpacked already; what follows has no magic to tell
    unpacked = body
    if coding in _DEFLATE_NAMES:
        unpacked = _stream_if_it_is_one(Inflate(Inflate.RAW), body, max_bytes)
    elif coding == "br":
        unpacked = _stream_if_it_is_one(Brotli(), body, max_bytes)
    # A text may pass for either, for some bytes; then it comes to garbage, or to little.
    is_garbage = holds_binary(unpacked) and not unpacked.startswith(_MARKS)
    return body if is_garbage or len(unpacked) + _MAX_OVERHEAD_BYTES < len(body) else unpacked


def _is_zlib(body: bytes) -> bool:
    """Whether a zlib header is there as encoders write it (RFC 1950, section 2.2)."""
    return body[:1] == b"\x78" and body[1:2] in (b"\x01", b"\x9c", b"\xda", b"\x5e")


def _all_members(
    coding: str, magic: re.Pattern[bytes], new_decoder: Callable[[], Decoder], body: bytes, max_bytes: int
) -> bytes:
    try:
        return _joined(members(body, magic, new_decoder), max_bytes)
    except DamagedError as error:
        raise UnreadableAnswerError(f"damaged {coding} body: {error}") from error


def _stream_if_it_is_one(decoder: Decoder, body: bytes, max_bytes: int) -> bytes:
    # The two bytes of zlib's magic may begin a text too, and raw deflate and br have no magic at all.
    try:
        return _joined(pieces(decoder, body), max_bytes)
    except DamagedError:
        return body


def _joined(unpacked: Iterable[bytes], max_bytes: int) -> bytes:
    joined = bytearray()
    for piece in unpacked:
        joined += piece
        if len(joined) > max_bytes:
            raise OversizedBodyError(f"more than {max_bytes} bytes unpacked")
    return bytes(joined)
