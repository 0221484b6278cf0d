"""Image bytes to a square uint8 crop: random and keyed per sample for training, the middle for evaluation.

Pictures are decoded by `pipeline.pictures`, so that the trainer sees what the image check saw: upright, sRGB, on
white. Crops follow the published recipe, CLIP's (section 2.5 and its repository's `clip.py`) in open_clip's form
(`open_clip/transform.py`):

    training     RandomResizedCrop(scale=(0.9, 1)), bicubic and antialiased, written where the batch wants it
    evaluation   shorter side resized, bicubic and antialiased, then the middle

The draws depend only on (seed, epoch, uid), never on the worker, rank or order of work.
"""

from __future__ import annotations

import math
from typing import Any

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
    pixels = decode_upright(data, max_pixels=_MAX_PIXELS, at_least=lambda size: _smallest(size, min_side))
    return None if isinstance(pixels, Rejected) else pixels


def _smallest(size: tuple[int, int], min_side: int | None) -> tuple[int, int] | None:
    """What is left of `size` when it is halved up to three times; None where it is to stay whole.

    By powers of two alone, for which libjpeg-turbo has wide instructions: three eighths take longer than a half.
    """
    halvings = 0
    while min_side is not None and halvings < 3 and min(size) >= min_side << (halvings + 1):
        halvings += 1
    return (-(-size[0] >> halvings), -(-size[1] >> halvings)) if halvings else None


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
    image: npt.NDArray[np.uint8],
    draw: npt.NDArray[np.float64],
    *,
    size: int,
    config: AugmentConfig,
    out: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    """uint8[size, size, 3]: the crop of uint8[H, W, 3] that `crop_box` draws, resized, and mirrored or not.

    It is written into `out` where that is given, such as a row of a batch (contiguous).
    """
    crop = np.empty((size, size, 3), np.uint8) if out is None else out
    top, left, height, width = crop_box(image.shape[0], image.shape[1], draw, config)
    _resize(image[top : top + height, left : left + width], crop)
    if draw[_FLIP] < config.flip_probability:
        crop[:] = crop[:, ::-1].copy()
    return crop


def centre_crop(
    image: npt.NDArray[np.uint8], size: int, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> npt.NDArray[np.uint8]:
    """uint8[size, size, 3]: shorter side to `size`, then the middle; to the bit as open_clip evaluates, by Pillow."""
    picture = Image.fromarray(image)
    width, height = picture.size
    if min(width, height) != size:
        short = min(width, height)
        width, height = int(size * width / short), int(size * height / short)
        picture = picture.resize((width, height), resample)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.array(picture.crop((left, top, left + size, top + size)))


def _resize(source: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8]) -> None:
    """To a square by torch's bicubic filter: Pillow's to 0.02 levels in the mean, in a seventh of its time."""
    if source.shape == out.shape:
        out[:] = source
        return
    # As torch.nn.functional.interpolate calls it, which takes no `out`, and gives planes that had to be interleaved.
    filtered: Any = torch.ops.aten._upsample_bicubic2d_aa.out
    filtered(_planes(source), out.shape[:2], False, None, None, out=_planes(out))


def _planes(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """uint8[H, W, 3] as uint8[1, 3, H, W], in the same memory where that is writable and contiguous."""
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)[None]
