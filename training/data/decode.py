"""Image bytes to a square uint8 crop: random and keyed per sample for training, the middle for evaluation.

Pictures are decoded by `pipeline.pictures`, so that the trainer sees what the image check saw: upright, sRGB, on
white. Crops follow the published recipe, CLIP's (section 2.5 and its repository's `clip.py`) in open_clip's form
(`open_clip/transform.py`):

    training     RandomResizedCrop(scale=(0.9, 1)), bicubic and antialiased
    evaluation   shorter side resized, bicubic and antialiased, then the middle

The draws depend only on (seed, epoch, uid), never on the worker, rank or order of work.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pipeline.pictures.decode import decode_upright
from pipeline.pictures.rejected import Rejected
from pipeline.records.identity import keyed_hash
from training.config import AugmentConfig

__all__ = ["centre_crop", "crop_box", "decode", "draws", "random_crop", "sample_keys"]

_TRIES = 10  # of torchvision's RandomResizedCrop.get_params
_AREA, _ASPECT, _LEFT, _TOP, _FLIP = range(5)
_MORE = 5  # the first of two columns for each try after the first
_DRAWS_PER_SAMPLE = _MORE + 2 * (_TRIES - 1)
_MAX_PIXELS = 64 * 1024 * 1024
"""Pictures beyond this are refused undecoded: shards hold resized pictures, so it is a bomb or a mistake."""


def sample_keys(uids: npt.NDArray[np.uint64], epochs: npt.NDArray[np.int64], *, seed: int) -> npt.NDArray[np.uint64]:
    """uint64[B]: one key per (seed, epoch, uid), from which all of a sample's randomness follows."""
    return keyed_hash(seed, uids, epochs.astype(np.uint64))


def draws(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """float64[B, 23] uniform in [0, 1), from `sample_keys`."""
    columns = [keyed_hash(column, keys) for column in range(_DRAWS_PER_SAMPLE)]
    bits = np.stack(columns, axis=1) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def decode(data: bytes, *, min_side: int | None = None) -> npt.NDArray[np.uint8] | None:
    """RGB uint8[H, W, 3], upright, on white; None where the bytes are no whole picture.

    `min_side`: JPEGs may be decoded at a half, a quarter or an eighth of their size (libjpeg's scaled inverse DCT) as
    long as both sides stay at least this long. None decodes every pixel.
    """
    smallest = None if min_side is None else (min_side, min_side)
    pixels = decode_upright(data, max_pixels=_MAX_PIXELS, at_least=lambda _: smallest)
    return None if isinstance(pixels, Rejected) else pixels


def crop_box(
    height: int, width: int, draw: npt.NDArray[np.float64], config: AugmentConfig
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random crop as `draw` float64[23] says.

    Distributed as torchvision's RandomResizedCrop.get_params: area uniform in [min_crop_area, 1], log aspect uniform;
    a crop that does not fit is drawn again, up to ten times, then the largest middle of an allowed aspect is taken.
    """
    least, widest = config.min_crop_area, config.max_crop_aspect
    for attempt in range(_TRIES):
        column = _MORE + 2 * (attempt - 1) if attempt else _AREA
        area = height * width * (least + (1 - least) * draw[column])
        aspect = math.exp((2 * draw[column + 1] - 1) * math.log(widest))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left, top = int(draw[_LEFT] * (width - crop_width + 1)), int(draw[_TOP] * (height - crop_height + 1))
            return top, left, crop_height, crop_width
    crop_width, crop_height = min(width, round(height * widest)), min(height, round(width * widest))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def random_crop(
    image: npt.NDArray[np.uint8], draw: npt.NDArray[np.float64], *, size: int, config: AugmentConfig
) -> npt.NDArray[np.uint8]:
    """uint8[size, size, 3]: the crop of uint8[H, W, 3] that `crop_box` draws, resized, and mirrored or not."""
    top, left, height, width = crop_box(image.shape[0], image.shape[1], draw, config)
    crop = _resized(image[top : top + height, left : left + width], size)
    if draw[_FLIP] < config.flip_probability:
        crop = crop[:, ::-1]
    return np.ascontiguousarray(crop)


def centre_crop(image: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """uint8[size, size, 3]: shorter side to `size`, then the middle; to the bit as open_clip evaluates, by Pillow."""
    picture = Image.fromarray(image)
    width, height = picture.size
    if min(width, height) != size:
        short = min(width, height)
        width, height = int(size * width / short), int(size * height / short)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.array(picture.crop((left, top, left + size, top + size)))


def _resized(crop: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """To a square by torch's bicubic filter: Pillow's to 0.02 levels in the mean, in a quarter of its time."""
    if crop.shape[:2] == (size, size):
        return crop
    planes = torch.from_numpy(np.require(crop, requirements=["C", "W"])).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(planes, (size, size), mode="bicubic", antialias=True)
    result: npt.NDArray[np.uint8] = resized[0].permute(1, 2, 0).numpy()
    return result
