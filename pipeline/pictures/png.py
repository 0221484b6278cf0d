"""PNG: its chunks checked and cut down to those that pixels depend on, before Pillow sees them.

Pillow refuses a picture for a text or profile beyond 1 MiB and for damage in chunks that say nothing of the
picture; libpng and browsers do not. On the other hand it checks neither the pixels' checksums nor their number.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

__all__ = ["Png", "has_all_rows", "read_png"]

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_MAX_PROFILE_BYTES = 4 * 1024 * 1024
"""Of a profile unpacked. It becomes a key of the cache of transforms, so hostile ones must stay small."""
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, steps of columns and rows of each pass (PNG specification, section 8.2)."""
_BLOCK = 1 << 18


@dataclass(frozen=True, kw_only=True, slots=True)
class Png:
    """A PNG whose chunks are whole."""

    width: int
    height: int
    depth: int
    """Bits of a sample: 1, 2, 4, 8 or 16."""
    colour_type: int
    """0 gray, 2 RGB, 3 palette, 4 gray with alpha, 6 RGB with alpha."""
    interlaced: bool
    transparent: tuple[int, ...] | None
    """The sample (gray) or samples (RGB) that stand for full transparency, in the file's depth; None if there are
    none, or the picture has a palette."""
    icc: bytes
    """The profile, unpacked; empty if there is none, or it is damaged or too large."""
    body: bytes
    """The file without what `transparent` and `icc` say and without all that no pixel depends on: texts, times,
    animation (so that the picture of viewers without animation is left)."""
    pixel_data: tuple[memoryview, ...]
    """Contents of the IDAT chunks: one zlib stream."""


def read_png(body: bytes) -> Png | str:
    """Walk the chunks (PNG specification, section 5.3), or say what is wrong.

    Damage counts in critical chunks. Ancillary ones with a wrong checksum are left out, as libpng does
    (its PNG_CRC_DEFAULT).
    """
    view = memoryview(body)
    kept: list[tuple[int, int]] = []  # spans of `body`
    pixel_data: list[memoryview] = []
    ancillary: dict[bytes, bytes] = {}
    header: tuple[int, ...] | None = None
    position = 8
    while position + 12 <= len(body):
        length, kind = struct.unpack_from(">I4s", body, position)
        data, end = position + 8, position + 8 + length
        if end + 4 > len(body):
            return "truncated"
        critical = not kind[0] & 0x20  # an upper-case first letter (section 5.4)
        if critical or kind in (b"tRNS", b"iCCP", b"eXIf"):
            whole = zlib.crc32(view[position + 4 : end]) == int.from_bytes(view[end : end + 4], "big")
            if critical and not whole:
                return f"checksum of {kind.decode('ascii', 'replace')}"
            keep = critical
            if kind == b"IHDR" and length >= 13 and header is None:
                header = struct.unpack_from(">IIBBBBB", body, data)
            elif kind == b"IDAT":
                pixel_data.append(view[data:end])
            elif whole and not critical and kind not in ancillary:
                ancillary[kind] = bytes(view[data:end])
                keep = kind == b"eXIf" or (kind == b"tRNS" and header is not None and header[3] == 3)
            if keep:
                start = kept.pop()[0] if kept and kept[-1][1] == position else position
                kept.append((start, end + 4))
        if kind == b"IEND":
            break
        position = end + 4
    else:
        return "truncated"
    if header is None or header[3] not in _CHANNELS:
        return "header"
    width, height, depth, colour_type, _, _, interlace = header
    return Png(
        width=width,
        height=height,
        depth=depth,
        colour_type=colour_type,
        interlaced=interlace != 0,
        transparent=_transparent(ancillary.get(b"tRNS", b""), depth, colour_type),
        icc=_profile(ancillary.get(b"iCCP", b"")),
        body=body if kept == [(8, len(body))] else b"".join([body[:8], *(body[a:b] for a, b in kept)]),
        pixel_data=tuple(pixel_data),
    )


def has_all_rows(png: Png) -> bool:
    """Whether the pixel data unpack to as many bytes as the header asks for. Raises zlib.error on damaged data."""
    missing = _num_bytes(png)
    inflater = zlib.decompressobj()
    for content in png.pixel_data:
        rest: bytes | memoryview = content
        while rest and missing > 0:
            missing -= len(inflater.decompress(rest, _BLOCK))
            rest = inflater.unconsumed_tail
    return missing <= 0


def _num_bytes(png: Png) -> int:
    """Of all rows, each with its filter's byte."""
    bits = png.depth * _CHANNELS[png.colour_type]
    total = 0
    for left, top, step_x, step_y in _ADAM7 if png.interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(png.width - left) // step_x), -(-(png.height - top) // step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _transparent(content: bytes, depth: int, colour_type: int) -> tuple[int, ...] | None:
    count = {0: 1, 2: 3}.get(colour_type, 0)
    if not count or len(content) < 2 * count:
        return None
    mask = (1 << depth) - 1  # only the lowest bits count (section 11.3.2)
    return tuple(sample & mask for sample in struct.unpack_from(f">{count}H", content))


def _profile(content: bytes) -> bytes:
    _, _, rest = content.partition(b"\0")  # name, NUL, method, zlib stream
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(rest[1:], _MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if inflater.eof else b""
