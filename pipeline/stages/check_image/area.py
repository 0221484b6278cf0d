"""Averaging areas: the resize of nearly every picture, and after decoding its largest cost.

Each output pixel is the mean of the source area that it covers, edges by their share. OpenCV's INTER_AREA
computes the same, columns first and so over every source row; here rows are added up first, which the
compiler turns into wide instructions, and the columns of the few sums that are left come last: 3 to 4 times
as fast. No reordering or contraction of floating-point operations: the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["shrink"]

F = TypeVar("F", bound=Callable[..., Any])


def _compiled(function: F) -> F:
    """Compiled when this module is imported, not in a child with little memory; kept on disk for the next."""
    pixels = numba.types.Array(numba.uint8, 2, "C", readonly=True)  # what Pillow decodes is read-only
    signature = numba.void(pixels, numba.uint8[:, ::1], numba.int64, numba.float32[::1])
    return cast(F, numba.njit(signature, nogil=True, cache=True, boundscheck=False)(function))


def shrink(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Average uint8[h, w] or uint8[h, w, 3] down to `size` (width, height); neither side may grow."""
    height, width = pixels.shape[:2]
    channels = 3 if pixels.ndim == 3 else 1
    result = np.empty((size[1], size[0], *pixels.shape[2:]), np.uint8)
    source = np.ascontiguousarray(pixels).reshape(height, width * channels)
    sums = np.empty(width * channels, np.float32)
    _shrink(source, result.reshape(size[1], size[0] * channels), channels, sums)
    return result


@_compiled
def _shrink(
    source: npt.NDArray[np.uint8], result: npt.NDArray[np.uint8], channels: int, sums: npt.NDArray[np.float32]
) -> None:
    """`source` uint8[h, w * channels] to `result` uint8[h', w' * channels]; `sums` float32[w * channels] is scratch."""
    height, n = source.shape
    new_height = result.shape[0]
    width, new_width = n // channels, result.shape[1] // channels
    # Positions are in units of 1 / new_size source pixels, whole numbers: edges fall exactly where they should.
    # Indices are unsigned: signed ones may be negative, and the check for that costs half of the speed.
    begins, ends = np.empty(new_width, np.uint64), np.empty(new_width, np.uint64)
    firsts, lasts = np.empty(new_width, np.float32), np.empty(new_width, np.float32)
    for x in range(new_width):
        left, right = x * width, (x + 1) * width
        begin, end = left // new_width, (right - 1) // new_width
        begins[x], ends[x] = begin * channels, end * channels
        firsts[x] = min(right, (begin + 1) * new_width) - left
        lasts[x] = right - end * new_width if end > begin else 0
    scale = np.float32(1.0) / (np.float32(height) * np.float32(width))
    half, whole = np.float32(0.5), np.float32(new_width)
    one, two, step = np.uint64(1), np.uint64(2), np.uint64(channels)
    for i in range(new_height):
        top, bottom = i * height, (i + 1) * height
        first, last = top // new_height, (bottom - 1) // new_height
        weight = np.float32(min(bottom, (first + 1) * new_height) - top)
        row = source[first]
        for j in range(n):
            sums[j] = weight * np.float32(row[j])
        for y in range(first + 1, last + 1):
            weight = np.float32(min(bottom, (y + 1) * new_height) - y * new_height)
            row = source[y]
            for j in range(n):
                sums[j] += weight * np.float32(row[j])
        out = result[i]
        for x in range(np.uint64(new_width)):
            begin, end, share, last_share = begins[x], ends[x], firsts[x], lasts[x]
            if channels == 3:
                a = share * sums[begin] + last_share * sums[end]
                b = share * sums[begin + one] + last_share * sums[end + one]
                c = share * sums[begin + two] + last_share * sums[end + two]
                for k in range(begin + step, end, step):
                    a += whole * sums[k]
                    b += whole * sums[k + one]
                    c += whole * sums[k + two]
                out[x * step] = np.uint8(a * scale + half)
                out[x * step + one] = np.uint8(b * scale + half)
                out[x * step + two] = np.uint8(c * scale + half)
            else:
                a = share * sums[begin] + last_share * sums[end]
                for k in range(begin + step, end, step):
                    a += whole * sums[k]
                out[x] = np.uint8(a * scale + half)
