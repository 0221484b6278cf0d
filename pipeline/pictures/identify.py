"""Format and size of a picture from its first bytes, before anything is decoded."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

__all__ = ["Identity", "identify"]

_SVG = re.compile(rb"\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*|<!DOCTYPE[^>\[]*(?:\[.*?\])?\s*>\s*)*<svg[\s>]", re.DOTALL)
_PNM = re.compile(rb"P[1-7][\s#]|P[fF]\s")
_UNSUPPORTED: tuple[tuple[bytes, str], ...] = (
    (b"8BPS", "PSD"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"%PDF", "PDF"),
    (b"DDS ", "DDS"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"qoif", "QOI"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"icns", "ICNS"),
    (b"\x01\xda", "SGI"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    (b"/* XPM", "XPM"),
    (b"BLP1", "BLP"),
    (b"BLP2", "BLP"),
    (b"\x8aMNG", "MNG"),
)
_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})  # sizes of the known info headers


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What the first bytes say. `format` is None for what is no picture; `decodable` false for other formats."""

    format: str | None
    decodable: bool
    size: tuple[int, int] | None = None
    """(width, height) where it lies in a fixed place; the decoder's header tells it for the rest."""


def identify(body: bytes) -> Identity:
    """Name the format of `body` by its magic numbers; its name or Content-Type plays no part."""
    if body.startswith(b"\xff\xd8\xff"):
        return Identity(format="JPEG", decodable=True)
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        size = struct.unpack_from(">II", body, 16) if body[12:16] == b"IHDR" and len(body) >= 24 else None
        return Identity(format="PNG", decodable=True, size=size)
    if body[:6] in (b"GIF87a", b"GIF89a"):
        size = struct.unpack_from("<HH", body, 6) if len(body) >= 10 else None
        return Identity(format="GIF", decodable=True, size=size)
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return Identity(format="WEBP", decodable=True, size=_webp_size(body))
    if body[4:8] == b"ftyp":
        return _iso_media(body)
    if body[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return Identity(format="TIFF", decodable=True)
    if body.startswith((b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")):
        return Identity(format="JPEG2000", decodable=True)
    if body[:2] == b"BM" and len(body) >= 26 and int.from_bytes(body[14:18], "little") in _BMP_HEADERS:
        return Identity(format="BMP", decodable=True, size=_bmp_size(body))
    for magic, name in _UNSUPPORTED:
        if body.startswith(magic):
            return Identity(format=name, decodable=False)
    guess = _by_structure(body[:18])
    if guess is not None:
        return Identity(format=guess, decodable=False)
    if _PNM.match(body):
        return Identity(format="PNM", decodable=False)
    if _SVG.match(body[:4096].removeprefix(b"\xef\xbb\xbf")):
        return Identity(format="SVG", decodable=False)
    return Identity(format=None, decodable=False)


def _by_structure(head: bytes) -> str | None:
    """Old formats with next to no magic number, by what their headers may hold."""
    if len(head) < 18:
        return None
    if head[:2] == b"\0\0" and head[2:4] in (b"\1\0", b"\2\0") and head[4:6] != b"\0\0":
        return "ICO" if head[2] == 1 else "CUR"
    if head[0] == 10 and head[1] <= 5 and head[2] == 1 and head[3] in (1, 2, 4, 8):
        return "PCX"
    if head[4:6] in (b"\x11\xaf", b"\x12\xaf"):
        return "FLI"
    color_map, kind, depth = head[1], head[2], head[16]
    has_size = head[12:14] != b"\0\0" and head[14:16] != b"\0\0"
    if color_map <= 1 and kind in (1, 2, 3, 9, 10, 11) and depth in (8, 15, 16, 24, 32) and has_size and head[17] < 64:
        return "TGA"
    return None


def _webp_size(body: bytes) -> tuple[int, int] | None:
    """From the first chunk (RFC 9649): VP8X canvas, VP8L header or VP8 key frame."""
    kind, data = body[12:16], body[20:30]
    if len(data) < 10:
        return None
    if kind == b"VP8X":
        return int.from_bytes(data[4:7], "little") + 1, int.from_bytes(data[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _bmp_size(body: bytes) -> tuple[int, int]:
    if int.from_bytes(body[14:18], "little") == 12:
        width, height = struct.unpack_from("<HH", body, 18)
        return width, height
    width, height = struct.unpack_from("<ii", body, 18)
    return abs(width), abs(height)


def _iso_media(body: bytes) -> Identity:
    """AVIF and its relatives share a container; the brands tell them apart (ISO/IEC 14496-12, `ftyp`)."""
    length = min(int.from_bytes(body[:4], "big"), 256)
    brands = {body[8:12], *(body[i : i + 4] for i in range(16, length, 4))}
    if brands & {b"avif", b"avis"}:
        return Identity(format="AVIF", decodable=True)
    if brands & {b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1", b"heim", b"heis"}:
        return Identity(format="HEIF", decodable=False)
    if brands & {b"jp2 ", b"jpx ", b"jxl "}:
        return Identity(format="ISO media", decodable=False)
    return Identity(format=None, decodable=False)
