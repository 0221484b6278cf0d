"""Thumbnails of 288 bytes, and whether two of them are of one picture.

    bytes 0..255     luma, 16 x 16, row by row
    bytes 256..287   Cr and Cb, 4 x 4 pairs (full range BT.601, as JPEG: ITU-T T.871, section 7)

A perceptual hash says what looks alike from afar: two maps of one country, two plots over the same axes, one shape in
two colours. The thumbnail keeps how much each place differs, which a hash of signs has lost.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

__all__ = ["CHROMA_SIDE", "LUMA_SIDE", "NUM_BYTES", "look_alike"]

LUMA_SIDE = 16
CHROMA_SIDE = 4
_LUMA = LUMA_SIDE**2
NUM_BYTES = _LUMA + 2 * CHROMA_SIDE**2

# Levels of 255. How the thresholds were chosen, and what they find and miss, is in docs/images.md.
_MAX_LUMA = 6.0
"""Of any place, beside what its surroundings allow."""
_SURROUNDINGS = 0.15
"""Share of the contrast with the eight places around it by which a place may differ too: that is what an edge gains or
loses when a copy is made smaller or cut a little."""
_MAX_CHROMA = 8.0
"""Of any place's Cr or Cb."""
_MAX_OFFSET = 16.0
"""How much brighter one may be in all."""
_MAX_GAIN = 0.14
"""And how much richer in contrast."""
_NOISE = 64.0**2
"""Of both in all places: below it contrast is none to speak of."""


def look_alike(left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """bool[P]: whether row i of `left` and of `right`, uint8[P, 288] each, may be the same picture.

    Compared are places, 16 x 16, after the whole of one has been made as bright and as rich in contrast as the other,
    within limits, and colours, 4 x 4, as they are.
    """
    a, b = left.astype(np.float64), right.astype(np.float64)  # in which all sums here are exact
    difference = b - a
    luma, chroma = difference[:, :_LUMA], difference[:, _LUMA:]
    middle = (a[:, :_LUMA] + b[:, :_LUMA]) / 2
    middle -= middle.mean(axis=1, keepdims=True)
    offset = luma.mean(axis=1).clip(-_MAX_OFFSET, _MAX_OFFSET)
    gain = ((luma * middle).sum(axis=1) / ((middle * middle).sum(axis=1) + _NOISE)).clip(-_MAX_GAIN, _MAX_GAIN)
    contrast = np.minimum(_contrast(left[:, :_LUMA]), _contrast(right[:, :_LUMA]))
    rest = np.abs(luma - offset[:, None] - gain[:, None] * middle) - _SURROUNDINGS * contrast
    return np.asarray((rest.max(axis=1) <= _MAX_LUMA) & (np.abs(chroma).max(axis=1) <= _MAX_CHROMA))


def _contrast(luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """uint8[P, 256]: greatest less smallest of each place and those around it."""
    places = np.pad(luma.reshape(-1, LUMA_SIDE, LUMA_SIDE), ((0, 0), (1, 1), (1, 1)), mode="edge")
    windows = [places[:, y : y + LUMA_SIDE, x : x + LUMA_SIDE] for y in range(3) for x in range(3)]
    greatest, smallest = functools.reduce(np.maximum, windows), functools.reduce(np.minimum, windows)
    return np.asarray(greatest - smallest).reshape(-1, _LUMA)
