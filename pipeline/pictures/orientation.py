"""EXIF blocks, and turning pictures upright by them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pipeline.pictures.jpeg import Pixels

__all__ = ["exif_of", "orientation_of", "upright"]

_ORIENTATION = 0x0112


def exif_of(data: bytes) -> Image.Exif | None:
    """Read an EXIF block (with or without its `Exif\\0\\0` prefix); None if it cannot be read."""
    exif = Image.Exif()
    try:
        exif.load(data)
    except Exception:  # noqa: BLE001 - hostile bytes make the parser raise almost anything
        return None
    return exif


def orientation_of(exif: Image.Exif | None) -> int:
    """EXIF orientation, 1 (upright) where there is none or it makes no sense."""
    try:
        value = exif.get(_ORIENTATION, 1) if exif is not None else 1
    except Exception:  # noqa: BLE001 - values are parsed on access, from hostile bytes
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn and mirror by the EXIF tag Orientation (1 to 8; EXIF 2.32, section 4.6.4). A view where possible."""
    if orientation in (2, 3):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4):
        pixels = pixels[::-1]
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
        if orientation in (6, 7):
            pixels = pixels[:, ::-1]
        if orientation in (7, 8):
            pixels = pixels[::-1]
    return pixels
