"""Pages of a MediaWiki XML dump: plain, gzip or bz2, one stream or many, whole or a byte range.

A multistream dump is split at the starts of its bz2 streams, which are found by their mark. A page belongs
to the range in which its `<page>` begins, so that the ranges of a file together give every page once,
even where a stream ends in the middle of a page.
"""

from __future__ import annotations

import bz2
import itertools
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO
from xml.etree import ElementTree

from pipeline.errors import InputError
from query_list.inputs import Input, open_raw

__all__ = ["Page", "ranges", "read_namespaces", "read_pages"]

_CHUNK_BYTES = 1 << 20
_MAX_PIECE_BYTES = 4 << 20
_STREAM = re.compile(rb"BZh[1-9]1AY&SY")  # bzip2's header and its first block's magic number
_STREAM_BYTES = 10
_OPEN, _CLOSE = b"<page>", b"</page>"
_ARTICLE = re.compile(rb"<ns>\s*0\s*</ns>")
_MAX_PAGE_BYTES = 64 << 20  # MediaWiki's own limit is 2 MiB of wikitext; beyond this the file is no dump


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of the article namespace; `broken` where its XML cannot be read."""

    title: str
    redirect: str | None
    """Title that it leads to."""
    text: str
    """Wikitext; empty for other content."""
    broken: bool = False


def ranges(file: Input, split_bytes: int) -> list[tuple[int, int]]:
    """Byte ranges of a dump file, at least `split_bytes` each; one for what cannot be split."""
    if not file.path.endswith(".bz2"):
        return [(0, file.num_bytes)]
    count = max(1, file.num_bytes // max(split_bytes, 1))
    cuts = [file.num_bytes * i // count for i in range(count + 1)]
    return list(itertools.pairwise(cuts))


def read_namespaces(path: str) -> frozenset[str]:
    """Lower-case names of all namespaces but the articles', from the head of the dump."""
    head = b""
    with open_raw(path) as file:
        for piece in _unpack(path, file, 0, 1):
            head += piece
            if b"</siteinfo>" in head or b"<page>" in head or len(head) > _MAX_PAGE_BYTES:
                break
    if b"<mediawiki" not in head[:4096]:
        raise InputError(f"{path}: not a MediaWiki XML dump; set dump.files to pages-articles files")
    names = re.findall(rb"<namespace [^>]*>([^<]+)</namespace>", head.partition(b"</siteinfo>")[0])
    return frozenset(name.decode("utf-8", "replace").strip().lower() for name in names)


def read_pages(path: str, begin: int, end: int) -> Iterator[Page]:
    """Pages of namespace 0 that begin in this byte range of the file, in order.

    Raises InputError where the file is truncated or is not what its name says.
    """
    for element in _elements(path, begin, end):
        if _ARTICLE.search(element, 0, 4096) or b"<ns>" not in element[:4096]:
            yield _page(element)


def _page(element: bytes) -> Page:
    try:
        root = ElementTree.fromstring(element)
    except ElementTree.ParseError:
        return Page(title="", redirect=None, text="", broken=True)
    redirect = root.find("redirect")
    model = root.findtext("revision/model") or "wikitext"
    return Page(
        title=(root.findtext("title") or "").strip(),
        redirect=None if redirect is None else redirect.get("title", "").partition("#")[0].strip() or None,
        text=(root.findtext("revision/text") or "") if model == "wikitext" else "",
    )


def _elements(path: str, begin: int, end: int) -> Iterator[bytes]:
    """Every `<page>...</page>` whose first byte comes from a stream that starts in the range."""
    with open_raw(path) as file:
        buffer, at = b"", 0
        limit: int | None = None  # index in `buffer` at which the range's own bytes end, once that is known
        pieces = _unpack(path, file, begin, end)
        while True:
            opened = buffer.find(_OPEN, at)
            if limit is not None and (opened >= limit or (opened < 0 and len(buffer) >= limit + len(_OPEN))):
                return  # the next page begins in the next range
            closed = buffer.find(_CLOSE, opened) if opened >= 0 else -1
            if closed >= 0:
                at = closed + len(_CLOSE)
                yield buffer[opened:at]
                continue
            # Keep an unfinished page, or what may be the first half of a tag.
            keep = opened if opened >= 0 else max(at, len(buffer) - len(_OPEN) + 1)
            if len(buffer) - keep > _MAX_PAGE_BYTES:
                raise InputError(f"{path}: a page of more than {_MAX_PAGE_BYTES >> 20} MiB; not a page dump")
            if limit is not None:
                limit -= keep
                if limit <= 0:
                    return
            piece = next(pieces, None)
            if piece is None:
                return
            buffer, at = buffer[keep:], 0
            if piece is _RANGE_ENDS:
                limit = len(buffer)
                if limit == 0:
                    return
            else:
                buffer += piece


_RANGE_ENDS = bytes(bytearray(b"range ends"))  # told apart by identity


def _unpack(path: str, file: IO[bytes], begin: int, end: int) -> Iterator[bytes]:
    """Unpacked bytes of the streams that start in the range, then _RANGE_ENDS, then what follows them."""
    if not path.endswith(".bz2"):
        yield from _unpack_whole(path, file)
        return
    start = 0 if begin == 0 else _find_stream(file, begin, end)
    if start is None:
        return
    file.seek(start)
    packed = file.read(_CHUNK_BYTES)
    within = True
    while packed:
        if within and start >= end:
            within = False
            yield _RANGE_ENDS
        unpacker = bz2.BZ2Decompressor()
        try:
            while True:
                yield unpacker.decompress(packed, _MAX_PIECE_BYTES)
                if unpacker.eof:
                    break
                start += len(packed)
                packed = b""
                if unpacker.needs_input:
                    packed = file.read(_CHUNK_BYTES)
                    if not packed:
                        raise InputError(f"{path}: the file ends in the middle of a bz2 stream; fetch it again")
        except (OSError, EOFError, ValueError) as error:
            raise InputError(f"{path}: not bz2, or damaged at byte {start:,} ({error}); fetch it again") from error
        start += len(packed) - len(unpacker.unused_data)
        packed = unpacker.unused_data or file.read(_CHUNK_BYTES)


def _unpack_whole(path: str, file: IO[bytes]) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=31) if path.endswith(".gz") else None
    while chunk := file.read(_CHUNK_BYTES):
        if unpacker is None:
            yield chunk
            continue
        try:
            while chunk:
                yield unpacker.decompress(chunk)
                chunk = unpacker.unused_data
                if unpacker.eof:
                    unpacker = zlib.decompressobj(wbits=31)
        except zlib.error as error:
            raise InputError(f"{path}: not gzip, or damaged ({error}); fetch it again") from error


def _find_stream(file: IO[bytes], begin: int, end: int) -> int | None:
    """The first byte in [begin, end) at which a bz2 stream starts."""
    position = begin
    while position < end:
        file.seek(position)
        chunk = file.read(min(_CHUNK_BYTES, end - position) + _STREAM_BYTES - 1)
        found = _STREAM.search(chunk)
        if found:
            return position + found.start() if position + found.start() < end else None
        position += _CHUNK_BYTES
    return None
