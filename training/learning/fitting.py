"""A picture of any shape made the square that a model wants, to the bit as open_clip's transform does it by Pillow.

shortest   the shorter side to the size, then the middle
squash     both sides to the size, whatever the shape was
longest    the longer side to the size, the rest filled up on both sides
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from training.data.decode import centre_crop
from training.errors import ModelError

__all__ = ["fit"]


def fit(
    pixels: npt.NDArray[np.uint8],
    size: int,
    *,
    mode: str = "shortest",
    interpolation: str = "bicubic",
    fill: int | tuple[int, int, int] = 0,
) -> npt.NDArray[np.uint8]:
    """uint8[size, size, 3] of uint8[H, W, 3], as open_clip's `image_transform` does for evaluation (transform.py).

    `interpolation`: bilinear; anything else is bicubic, as there. `fill`: what `longest` fills up with. Raises
    ModelError for another mode.
    """
    resample = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
    if mode == "shortest":
        return centre_crop(pixels, size, resample)
    picture = Image.fromarray(pixels)
    if mode == "squash":
        return np.array(picture.resize((size, size), resample))
    if mode != "longest":
        raise ModelError(f"pictures: resize mode {mode!r} is none of shortest, squash, longest; see the model's config")
    ratio = max(picture.height / size, picture.width / size)
    height, width = max(1, round(picture.height / ratio)), max(1, round(picture.width / ratio))
    picture = picture.resize((width, height), resample)
    left, top = (size - width) // 2, (size - height) // 2
    border = (left, top, size - width - left, size - height - top)
    colour = (fill, fill, fill) if isinstance(fill, int) else tuple(fill)
    return np.array(ImageOps.expand(picture, border, colour))
