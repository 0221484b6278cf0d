"""Image bytes to a square uint8 crop, with augmentation keyed per sample.

The draws depend only on (seed, epoch, uid), never on the worker, rank or order of work.
"""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from configs.load import ConfigError
from pipeline.identity import keyed_hash

__all__ = ["AugmentConfig", "decode", "draws", "random_crop", "sample_keys"]

_DRAWS_PER_SAMPLE = 8
_MAX_PIXELS = 64 * 1024 * 1024
"""Pictures beyond this are refused undecoded: shards hold resized pictures, so it is a bomb or a mistake."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random crops, as CLIP's (section 2.5: a random square crop is the only augmentation)."""

    min_crop_area: float = 0.9
    """Smallest share of the picture's area that a crop covers; 0.9 is open_clip's default, 1 takes all."""
    max_crop_aspect: float = 4 / 3
    """Widest crop before it is made square, as width over height or its inverse; 1 keeps shapes as they are."""
    flip_probability: float = 0.0
    """Chance of a mirrored picture. CLIP uses none: captions name left and right, and text would be mirrored."""

    def __post_init__(self) -> None:
        if not 0 < self.min_crop_area <= 1:
            raise ConfigError(f"min_crop_area must lie in (0, 1], got {self.min_crop_area}")
        if self.max_crop_aspect < 1:
            raise ConfigError(f"max_crop_aspect must be at least 1, got {self.max_crop_aspect}")
        if not 0 <= self.flip_probability <= 1:
            raise ConfigError(f"flip_probability must lie in [0, 1], got {self.flip_probability}")


def sample_keys(uids: npt.NDArray[np.uint64], epochs: npt.NDArray[np.int64], *, seed: int) -> npt.NDArray[np.uint64]:
    """uint64[B]: one key per (seed, epoch, uid), from which all of a sample's randomness follows."""
    return keyed_hash(seed, uids, epochs.astype(np.uint64))


def draws(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """float64[B, 8] uniform in [0, 1), from `sample_keys`."""
    columns = [keyed_hash(column, keys) for column in range(_DRAWS_PER_SAMPLE)]
    bits = np.stack(columns, axis=1) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def decode(data: bytes, *, min_side: int) -> npt.NDArray[np.uint8] | None:
    """RGB uint8[H, W, 3], or None where the bytes are no whole picture.

    `min_side`: JPEGs may be decoded at a fraction of their size (libjpeg's scaled inverse DCT) as long as both
    sides stay at least this long.
    """
    try:
        if data[:2] == b"\xff\xd8":
            height, width, space, _ = simplejpeg.decode_jpeg_header(data)
            if height * width > _MAX_PIXELS:
                return None
            if space in ("RGB", "YCbCr", "Gray"):  # the others go through Pillow, which knows Adobe's inversion
                pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
                    data, colorspace="RGB", fastdct=False, min_height=min_side, min_width=min_side
                )
                return pixels
        return _decode_with_pillow(data)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, EOFError):
        return None


def random_crop(
    image: npt.NDArray[np.uint8], draw: npt.NDArray[np.float64], *, size: int, config: AugmentConfig
) -> npt.NDArray[np.uint8]:
    """uint8[size, size, 3]: a random crop of uint8[H, W, 3] as `draw` float64[8] says.

    Area uniform in [min_crop_area, 1], log aspect uniform, sides clipped to the picture; the same
    distribution as torchvision's RandomResizedCrop except that it clips where that draws again.
    """
    height, width = image.shape[:2]
    area = height * width * (config.min_crop_area + (1 - config.min_crop_area) * draw[0])
    aspect = math.exp((2 * draw[1] - 1) * math.log(config.max_crop_aspect))
    crop_width = min(width, max(1, round(math.sqrt(area * aspect))))
    crop_height = min(height, max(1, round(math.sqrt(area / aspect))))
    left = int(draw[2] * (width - crop_width + 1))
    top = int(draw[3] * (height - crop_height + 1))
    crop = image[top : top + crop_height, left : left + crop_width]
    if crop.shape[:2] != (size, size):
        smaller = crop_height >= size and crop_width >= size
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)  # type: ignore[assignment]  # cv2's stubs lose the dtype
    if draw[4] < config.flip_probability:
        crop = crop[:, ::-1]
    return np.ascontiguousarray(crop)


def _decode_with_pillow(data: bytes) -> npt.NDArray[np.uint8] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd EXIF and palettes; the pixels count
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                return None
            return np.asarray(picture.convert("RGB"))
