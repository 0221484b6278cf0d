"""The XMP packets of a picture, as bytes, without decoding it (XMP Specification Part 3, Storage in Files).

JPEG, PNG and WebP are walked, so that a packet in several segments or a compressed chunk is found too; in other formats
a packet lies in one piece, and is found by its wrapper, as the specification's packet scanning does.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator

__all__ = ["xmp_packets"]

_STANDARD = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENDED = b"http://ns.adobe.com/xmp/extension/\0"
_GUID_BYTES, _LENGTH_BYTES = 32, 8
_KEYWORD = b"XML:com.adobe.xmp"
_RAW_PROFILE = b"Raw profile type xmp"
"""ImageMagick's, before there was a place for XMP: hexadecimal digits behind a name and a length."""
_MAX_PACKET_BYTES = 4 * 1024 * 1024
"""Of one packet, unpacked; a larger one is cut."""
_MAX_PACKETS = 16
_WRAPPERS = (
    (b"<x:xmpmeta", b"</x:xmpmeta"),
    (b"<x:xapmeta", b"</x:xapmeta"),
    (b"<?xpacket begin", b"<?xpacket end"),
    (b"<rdf:RDF", b"</rdf:RDF"),
)
"""Beginning and end of a packet, the likeliest first: the others stand inside or around it."""


def xmp_packets(body: bytes) -> list[bytes]:
    """Every packet in `body`; none where it holds none, or is no picture. Damage ends the walk and raises nothing."""
    if body.startswith(b"\xff\xd8\xff"):
        return _of_jpeg(body)
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return _first(_of_png(body))
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return _first(_of_webp(body))
    for begin, end in _WRAPPERS:
        if begin in body:
            return _first(_wrapped(body, begin, end))
    return []


def _first(packets: Iterator[bytes]) -> list[bytes]:
    return [packet[:_MAX_PACKET_BYTES] for packet, _ in zip(packets, range(_MAX_PACKETS), strict=False)]


def _of_jpeg(body: bytes) -> list[bytes]:
    """Of the APP1 segments before the first scan: the packet, and what was too long for it, by its GUID."""
    packets: list[bytes] = []
    extended: dict[bytes, list[tuple[int, bytes]]] = {}
    position = 2
    while position + 4 <= len(body) and len(packets) < _MAX_PACKETS:
        if body[position] != 0xFF:  # as decoders do: look for the next marker
            position = body.find(b"\xff", position)
            if position < 0:
                break
            continue
        marker = body[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            position += 2
            continue
        length = int.from_bytes(body[position + 2 : position + 4], "big")
        if marker in (0xDA, 0xD9) or length < 2:
            break
        start, end = position + 4, position + 2 + length
        if marker == 0xE1 and body.startswith(_STANDARD, start):
            packets.append(body[start + len(_STANDARD) : end])
        elif marker == 0xE1 and body.startswith(_EXTENDED, start):
            start += len(_EXTENDED)
            guid = body[start : start + _GUID_BYTES]
            start += _GUID_BYTES
            place = int.from_bytes(body[start + 4 : start + _LENGTH_BYTES], "big")
            extended.setdefault(guid, []).append((place, body[start + _LENGTH_BYTES : end]))
        position = end
    packets += (b"".join(piece for _, piece in sorted(pieces)) for pieces in extended.values())
    return _first(iter(packets))


def _of_png(body: bytes) -> Iterator[bytes]:
    position = 8
    while position + 12 <= len(body):
        length, kind = int.from_bytes(body[position : position + 4], "big"), body[position + 4 : position + 8]
        data = position + 8
        if kind == b"iTXt" and body.startswith(_KEYWORD + b"\0", data):
            rest = body[data + len(_KEYWORD) + 1 : data + length]
            text = rest[2:].split(b"\0", 2)[-1]  # behind language and translated keyword
            yield _inflated(text) if rest[:1] == b"\1" else text
        elif kind in (b"tEXt", b"zTXt") and body.startswith(_RAW_PROFILE + b"\0", data):
            rest = body[data + len(_RAW_PROFILE) + 1 : data + length]
            digits = (_inflated(rest[1:]) if kind == b"zTXt" else rest).split(None, 2)
            with contextlib.suppress(ValueError, IndexError):
                yield bytes.fromhex(digits[2].decode("ascii"))
        elif kind == b"IEND":
            break
        position = data + length + 4


def _of_webp(body: bytes) -> Iterator[bytes]:
    position = 12
    while position + 8 <= len(body):
        kind, length = body[position : position + 4], int.from_bytes(body[position + 4 : position + 8], "little")
        if kind == b"XMP ":
            yield body[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def _wrapped(body: bytes, begin: bytes, end: bytes) -> Iterator[bytes]:
    start = body.find(begin)
    while start >= 0:
        stop = body.find(end, start)
        if stop < 0:
            yield body[start:]
            return
        stop = body.find(b">", stop) + 1 or len(body)
        yield body[start:stop]
        start = body.find(begin, stop)


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _MAX_PACKET_BYTES)
    except zlib.error:
        return b""
