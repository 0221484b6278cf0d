"""PDQ: the perceptual hash, 256 bits, in which lists of known pictures are exchanged.

    RGB --luma, two box filters along each axis--> 64 x 64 places --cosines 1 to 16--> 16 x 16 --median--> 256 bits

After "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm" (Facebook, 2019, sections 3 and 4) and
the reference implementation's conventions for windows, centres and the order of bits (github.com/facebook/
ThreatExchange, pdq/). All of it but the median is linear, so that it is a product of matrices here, L x luma x R: the
filters and the choice of rows are made into L once a height. Hashes of other implementations differ in a few bits, as
theirs do from each other (docs/privacy.md).
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from pipeline.pictures.jpeg import Pixels
from pipeline.pictures.pdq_record import Pdq

__all__ = ["pdq_of"]

_LEAST_SIDE = 5
"""Pixels: of less there is no hash, as in the reference implementation."""
_SIDE, _FREQUENCIES = 64, 16
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Of ITU-R BT.601."""
Floats = npt.NDArray[np.float32]


def pdq_of(pixels: Pixels) -> Pdq | None:
    """PDQ of uint8[h, w] or uint8[h, w, 3] RGB; None below 5 pixels a side."""
    height, width = pixels.shape[:2]
    if min(height, width) < _LEAST_SIDE:
        return None
    small = _small(pixels)
    cosines = _cosines()
    spectrum = np.asarray(cosines @ small @ cosines.T, np.float32)
    return Pdq(hashes=b"".join(_bits(turned) for turned in _ways(spectrum)), quality=_quality(small))


def _small(pixels: Pixels) -> Floats:
    """float32[64, 64]: the luma, filtered, at 64 x 64 places."""
    height, width = pixels.shape[:2]
    flat = pixels.reshape(height, -1)
    rows = np.empty((_SIDE, flat.shape[1]), np.float32)
    for place, (first, weights) in enumerate(_filter(height)):
        rows[place] = weights @ flat[first : first + len(weights)].astype(np.float32)
    luma = rows if pixels.ndim == 2 else rows.reshape(_SIDE, width, 3) @ _LUMA
    small = np.empty((_SIDE, _SIDE), np.float32)
    for place, (first, weights) in enumerate(_filter(width)):
        small[:, place] = luma[:, first : first + len(weights)] @ weights
    return small


@functools.lru_cache(maxsize=64)
def _filter(length: int) -> list[tuple[int, Floats]]:
    """For each of 64 places along an axis, the first pixel that counts and the weights from there on.

    A box filter twice, each a mean over `window` pixels, fewer at the ends; of an axis of 64 pixels these pixels.
    """
    window = 1 if length == _SIDE else -(-length // (2 * _SIDE))
    before = (window + 2) // 2 - 1
    after = window - 1 - before
    centres = [int((place + 0.5) * length / _SIDE) for place in range(_SIDE)]
    found = []
    for centre in centres:
        # A place of the second pass is a mean of places of the first, each of which is one of pixels.
        weights: dict[int, float] = {}
        inner = range(max(0, centre - after), min(length, centre + before + 1))
        for middle in inner:
            outer = range(max(0, middle - after), min(length, middle + before + 1))
            for pixel in outer:
                weights[pixel] = weights.get(pixel, 0.0) + 1 / len(inner) / len(outer)
        first = min(weights)
        found.append((first, np.array([weights[first + i] for i in range(len(weights))], np.float32)))
    return found


@functools.cache
def _cosines() -> Floats:
    """float32[16, 64]: the frequencies 1 to 16 of the cosine transform of 64 values."""
    frequency, place = np.mgrid[1 : _FREQUENCIES + 1, 0:_SIDE]
    return np.asarray(np.sqrt(2 / _SIDE) * np.cos(np.pi / 2 / _SIDE * frequency * (2 * place + 1)), np.float32)


def _quality(small: Floats) -> int:
    """Of the steps between neighbours, in whole hundredths of the range."""
    steps = [np.abs((np.diff(small, axis=axis) * 100 / 255).astype(np.int32)).sum() for axis in (0, 1)]
    return min(100, int(sum(steps)) // 90)


def _ways(spectrum: Floats) -> list[Floats]:
    """The spectra of the picture in all eight ways that it can lie: signs change with odd frequencies, axes swap."""
    odd = np.where(np.arange(_FREQUENCIES) % 2, np.float32(1), np.float32(-1))  # of frequency 1 first, at index 0
    rows, columns = odd[:, None], odd[None, :]
    upright = [spectrum, spectrum * rows * columns, spectrum * rows, spectrum * columns]
    return [*upright, *(each.T for each in upright)]


def _bits(spectrum: Floats) -> bytes:
    """32 bytes: whether each coefficient is above the median, the last one first."""
    ordered = np.sort(spectrum, axis=None)
    above = spectrum.ravel() > ordered[(spectrum.size - 1) // 2]  # the lower of the two in the middle
    return np.packbits(above[::-1]).tobytes()
