"""Facts about a picture: its EXIF tags, its perceptual hash and its thumbnail."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from pipeline.pictures.jpeg import Pixels
from pipeline.pictures.thumbnail import CHROMA_SIDE, LUMA_SIDE, NUM_BYTES
from pipeline.stages.check_image.area import shrink

__all__ = ["exif_json", "gray_32", "perceptual_hash", "thumbnail"]

_SUB_IFDS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_MAX_VALUE_CHARS = 500
_SIDE = 32  # of the gray picture that the hash is taken from


def exif_json(exif: Image.Exif | None, wanted: Collection[str]) -> str | None:
    """JSON object of the `wanted` tags (`all` for all) as text, keys sorted; None if there are none."""
    if exif is None or not wanted:
        return None
    found: dict[str, str] = {}
    tables: list[tuple[Any, dict[int, str]]] = [(exif, ExifTags.TAGS)]
    for ifd in _SUB_IFDS:
        try:
            tables.append((exif.get_ifd(ifd), ExifTags.GPSTAGS if ifd == ExifTags.IFD.GPSInfo else ExifTags.TAGS))
        except Exception:  # noqa: BLE001 - as above
            continue
    for table, names in tables:
        for tag in list(table):
            name = names.get(tag)
            if name is None or not ("all" in wanted or name in wanted):
                continue
            try:
                text = _as_text(table[tag])
            except Exception:  # noqa: BLE001 - as above
                continue
            if text:
                found.setdefault(name, text)
    return json.dumps(found, sort_keys=True) if found else None


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii") if value.isascii() else value[:32].hex()
    if isinstance(value, dict):
        return ""  # the pointer to a sub-table, which is read by itself
    return str(value).strip("\0 \t\r\n")[:_MAX_VALUE_CHARS]


@functools.cache
def _low_frequencies() -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows and columns of the 64 lowest frequencies after the constant one, by diagonals."""
    order = sorted(((u, v) for u in range(16) for v in range(16) if u + v), key=lambda p: (p[0] + p[1], p[0]))[:64]
    rows, columns = np.array(order, np.intp).T
    return rows, columns


def gray_32(pixels: Pixels) -> Pixels:
    """uint8[32, 32]: the luma of an upright picture, uint8[h, w] or uint8[h, w, 3] RGB, by areas."""
    gray: Pixels = pixels
    if pixels.ndim == 3:
        gray = np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY), np.uint8)
    if min(gray.shape) >= _SIDE:
        return shrink(gray, (_SIDE, _SIDE))
    small = cv2.resize(np.ascontiguousarray(gray), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def perceptual_hash(gray: Pixels) -> int:
    """64-bit hash of an upright picture's `gray_32`: alike for pictures that look alike (small Hamming distance).

    Cosine transform; a bit for each of the 64 lowest frequencies but the constant one: whether its coefficient
    (rounded, so that noise of the arithmetic in flat pictures has no say) is above their median. After pHash
    (Zauner 2010, section 3.2.1), with diagonals instead of its square of frequencies. The first frequency is the
    highest bit.
    """
    spectrum = cv2.dct(gray.astype(np.float32))
    coefficients = np.rint(spectrum[_low_frequencies()])
    middle = np.sort(coefficients)[31:33]
    bits = coefficients > (middle[0] + middle[1]) / 2
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def thumbnail(pixels: Pixels, gray: Pixels) -> bytes:
    """The bytes that `pipeline.pictures.thumbnail` compares, of an upright picture and its `gray_32`."""
    luma = cv2.resize(gray, (LUMA_SIDE, LUMA_SIDE), interpolation=cv2.INTER_AREA)  # of 2 x 2 each: exact
    if pixels.ndim == 2:
        return luma.tobytes() + bytes([128]) * (NUM_BYTES - luma.size)
    # Colours are of 32 x 32 pixels: the mean of all of them would take three times as long.
    sampled = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST)
    small = cv2.resize(sampled, (CHROMA_SIDE, CHROMA_SIDE), interpolation=cv2.INTER_AREA)
    return luma.tobytes() + cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb)[:, :, 1:].tobytes()
