"""Regions of a picture made unrecognisable, such as faces.

A region is averaged to at most 8 x 8 cells and drawn large again, so what it showed is gone: a Gaussian's blur can be
undone in part, means of cells cannot. Faces of 8 x 8 pixels are told apart by neither people nor recognisers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["blurred"]

_CELLS = 8
_MARGIN = 0.15
"""Of a box's width and height, added on each side: detectors cut off chins and foreheads."""


def blurred(pixels: npt.NDArray[np.uint8], boxes: Iterable[Sequence[float]]) -> npt.NDArray[np.uint8]:
    """uint8[h, w, 3] with each box (x, y, width, height, in shares of the picture; what follows is passed over)
    unrecognisable. The same pixels for the same input; what lies outside of all boxes and their margin stays."""
    height, width = pixels.shape[:2]
    changed = pixels.copy()
    for x, y, wide, high, *_ in boxes:
        left, right = _span(x, wide, width)
        top, bottom = _span(y, high, height)
        if left < right and top < bottom:
            region = np.ascontiguousarray(changed[top:bottom, left:right])
            cells = (min(_CELLS, right - left), min(_CELLS, bottom - top))
            means = cv2.resize(region, cells, interpolation=cv2.INTER_AREA)
            changed[top:bottom, left:right] = cv2.resize(
                means, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR
            )
    return changed


def _span(begin: float, length: float, side: int) -> tuple[int, int]:
    """Whole pixels of a box and its margin, within the picture."""
    first, last = (begin - _MARGIN * length) * side, (begin + (1 + _MARGIN) * length) * side
    return max(0, int(np.floor(first))), min(side, int(np.ceil(last)))
