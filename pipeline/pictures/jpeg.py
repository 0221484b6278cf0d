"""JPEG by libjpeg-turbo: the markers before decoding, then pixels, scaled while decoding where that is allowed.

Decoding is strict: what libjpeg only warns of (a truncated file, damaged Huffman data in the middle) is an
error here, since the warning stands for gray or shifted areas in the picture.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg

__all__ = ["JpegHeader", "Pixels", "decode_jpeg", "read_jpeg_header"]

Pixels = npt.NDArray[np.uint8]
"""uint8[height, width] (gray) or uint8[height, width, 3] (RGB); within this package also uint8[h, w, 4] (CMYK)."""

_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # all start-of-frame markers, not DHT, JPG, DAC
_LOSSLESS = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF})  # and hierarchical: not decoded


@dataclass(frozen=True, kw_only=True, slots=True)
class JpegHeader:
    """What stands before the first scan. Sizes are as stored, not yet upright."""

    width: int
    height: int
    num_components: int
    precision: int
    decodable: bool
    exif: bytes
    """The EXIF block, empty if there is none."""
    icc: bytes
    """The ICC profile, its chunks joined; empty if there is none or a chunk is missing."""


def read_jpeg_header(body: bytes) -> JpegHeader | None:
    """Walk the marker segments up to the first scan (ITU-T T.81, annex B); None if there is no frame."""
    position = 2
    frame: tuple[int, int, int, int, int] | None = None
    exif = b""
    icc: dict[int, bytes] = {}
    num_icc = 0
    while True:
        position = body.find(b"\xff", position)
        if position < 0 or position + 4 > len(body):
            break
        marker = body[position + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            position += 1 if marker == 0xFF else 2
            continue
        if marker in (0xDA, 0xD9):
            break
        length = int.from_bytes(body[position + 2 : position + 4], "big")
        data = body[position + 4 : position + 2 + length]
        position += 2 + length
        if length < 2:
            break
        if marker in _SOF and len(data) >= 6 and frame is None:
            precision, height, width, components = struct.unpack_from(">BHHB", data)
            frame = (marker, precision, height, width, components)
        elif marker == 0xE1 and data.startswith(b"Exif\0") and not exif:
            exif = data
        elif marker == 0xE2 and data.startswith(b"ICC_PROFILE\0") and len(data) > 14:
            icc[data[12]] = data[14:]
            num_icc = data[13]
    if frame is None:
        return None
    marker, precision, height, width, components = frame
    complete = num_icc > 0 and all(i in icc for i in range(1, num_icc + 1))
    return JpegHeader(
        width=width,
        height=height,
        num_components=components,
        precision=precision,
        decodable=precision == 8 and components in (1, 3, 4) and marker not in _LOSSLESS,
        exif=exif,
        icc=b"".join(icc[i] for i in range(1, num_icc + 1)) if complete else b"",
    )


def decode_jpeg(body: bytes, header: JpegHeader, at_least: tuple[int, int] | None) -> Pixels:
    """Decode to uint8[h, w] (one component), uint8[h, w, 3] RGB, or uint8[h, w, 4] CMYK, ink as 255.

    `at_least` (width, height), as stored, lets the decoder make the picture smaller down to that by halves,
    quarters and eighths; None decodes every pixel. Raises ValueError for a damaged file.
    """
    space = {1: "GRAY", 3: "RGB", 4: "CMYK"}[header.num_components]
    width, height = at_least or (0, 0)
    pixels: Pixels = simplejpeg.decode_jpeg(
        body, colorspace=space, min_width=width, min_height=height, min_factor=2 if at_least else 1, strict=True
    )
    if header.num_components == 1:
        return pixels[:, :, 0]
    if header.num_components == 4:
        # Adobe's applications store CMYK inverted (its Technical Note 5116), and so it is read without their marker
        # too: by browsers, OpenCV and Pillow (its JpegImagePlugin). libjpeg takes four components for YCCK only where
        # the marker says so; that is how browsers show them.
        return np.invert(pixels)
    return pixels
