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
    signature = "void(u1[:, ::1], u1[:, ::1], i8, f4[::1])"
    return cast(F, numba.njit(signature, nogil=True, cache=True, boundscheck=False)(function))


def shrink(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Average uint8[h, w] or uint8[h, w, channels] down to `size` (width, height); neither side may grow."""
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
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
    scale = np.float32(1.0) / (np.float32(height) * np.float32(width))
    for i in range(new_height):
        top, bottom = i * height, (i + 1) * height
        first, last = top // new_height, (bottom - 1) // new_height
        weight = np.float32(min(bottom, (first + 1) * new_height) - top)
        for j in range(n):
            sums[j] = weight * np.float32(source[first, j])
        for y in range(first + 1, last + 1):
            weight = np.float32(min(bottom, (y + 1) * new_height) - y * new_height)
            for j in range(n):
                sums[j] += weight * np.float32(source[y, j])
        for x in range(new_width):
            left, right = x * width, (x + 1) * width
            begin, end = left // new_width, (right - 1) // new_width
            weight = np.float32(min(right, (begin + 1) * new_width) - left)
            if channels == 3:
                a = weight * sums[begin * 3]
                b = weight * sums[begin * 3 + 1]
                c = weight * sums[begin * 3 + 2]
                for k in range(begin + 1, end + 1):
                    weight = np.float32(min(right, (k + 1) * new_width) - k * new_width)
                    a += weight * sums[k * 3]
                    b += weight * sums[k * 3 + 1]
                    c += weight * sums[k * 3 + 2]
                result[i, x * 3] = np.uint8(a * scale + np.float32(0.5))
                result[i, x * 3 + 1] = np.uint8(b * scale + np.float32(0.5))
                result[i, x * 3 + 2] = np.uint8(c * scale + np.float32(0.5))
            else:
                for channel in range(channels):
                    a = weight * sums[begin * channels + channel]
                    for k in range(begin + 1, end + 1):
                        share = np.float32(min(right, (k + 1) * new_width) - k * new_width)
                        a += share * sums[k * channels + channel]
                    result[i, x * channels + channel] = np.uint8(a * scale + np.float32(0.5))
