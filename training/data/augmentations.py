"""The K augmentations of a picture: a random crop and RandAugment, each a function of (seed, uid, number).

Nothing of them is stored: whoever has the picture makes the same pixels again. The crop is drawn as in `decode.py`, the
operations are torchvision's, with their magnitudes (`torchvision.transforms.RandAugment`), applied to the crop; so the
same augmentation can be made at each size that a teacher or a student wants.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.records.identity import keyed_hash, keyed_hashes, keyed_state
from training.data.augmentations_config import StrongAugmentConfig
from training.data.decode import draws, random_crop

__all__ = ["OPERATIONS", "augmentation_keys", "augmented", "operations_of"]

_AUGMENTATIONS_KEY = 0x6175676D656E74  # "augment": keeps these draws apart from those of training
_FIRST_COLUMN = 256
"""Of the operations; the crop has the first ones."""
_BINS = 31
"""Magnitudes: 0 to 30 (torchvision's RandAugment)."""


def augmentation_keys(
    uids: npt.NDArray[np.uint64], numbers: npt.NDArray[np.int64], *, seed: int
) -> npt.NDArray[np.uint64]:
    """uint64[B]: the key of augmentation number `numbers` int64[B] of each sample, by the first 64 bits of its uid."""
    return keyed_hash(seed ^ _AUGMENTATIONS_KEY, uids, numbers.astype(np.uint64))


def augmented(
    picture: npt.NDArray[np.uint8],
    key: np.uint64,
    *,
    size: int,
    config: StrongAugmentConfig,
    out: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    """uint8[size, size, 3]: the augmentation `key` of uint8[H, W, 3], into `out` where that is given."""
    bits = keyed_hashes(_crop_states(), np.array([key]))[0] >> np.uint64(11)
    crop = random_crop(picture, bits.astype(np.float64) * 2.0**-53, size=size, config=config.crop, out=out)
    chosen = operations_of(key, config)
    if chosen:
        changed = Image.fromarray(crop)
        for name, sign in chosen:
            changed = _apply(changed, name, sign, config.magnitude)
        crop[:] = np.asarray(changed)
    return crop


def operations_of(key: np.uint64, config: StrongAugmentConfig) -> list[tuple[str, int]]:
    """(name, sign) of the operations of an augmentation, in order."""
    columns = keyed_hashes(_operation_states(config.operations), np.array([key]))[0]
    return [
        (OPERATIONS[int(which % np.uint64(len(OPERATIONS)))], 1 - 2 * int(sign >> np.uint64(63)))
        for which, sign in zip(columns[::2], columns[1::2], strict=True)
    ]


@cache
def _crop_states() -> npt.NDArray[np.uint64]:
    """Of the columns that `draws` has: what follows gives the same numbers, for one key in a tenth of the time."""
    return np.array([keyed_state(column) for column in range(draws(np.zeros(1, np.uint64)).shape[1])])


@cache
def _operation_states(operations: int) -> npt.NDArray[np.uint64]:
    return np.array([keyed_state(_FIRST_COLUMN + column) for column in range(2 * operations)], np.uint64)


def _apply(picture: Image.Image, name: str, sign: int, magnitude: int) -> Image.Image:
    from torchvision.transforms import functional  # which decoding alone does not need

    changed: Image.Image = _CHANGES[name](functional, picture, sign * magnitude / (_BINS - 1), magnitude)
    return changed


def _sheared(functional: Any, picture: Image.Image, x: float, y: float) -> Image.Image:
    shear = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    changed: Image.Image = functional.affine(
        picture, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0]
    )
    return changed


def _moved(functional: Any, picture: Image.Image, x: float, y: float) -> Image.Image:
    translate = [int(150 / 331 * picture.width * x), int(150 / 331 * picture.height * y)]
    changed: Image.Image = functional.affine(picture, angle=0.0, translate=translate, scale=1.0, shear=[0.0, 0.0])
    return changed


_CHANGES: dict[str, Callable[[Any, Image.Image, float, int], Any]] = {
    "identity": lambda _, picture, strength, magnitude: picture,
    "shear_x": lambda f, picture, strength, magnitude: _sheared(f, picture, 0.3 * strength, 0),
    "shear_y": lambda f, picture, strength, magnitude: _sheared(f, picture, 0, 0.3 * strength),
    "translate_x": lambda f, picture, strength, magnitude: _moved(f, picture, strength, 0),
    "translate_y": lambda f, picture, strength, magnitude: _moved(f, picture, 0, strength),
    "rotate": lambda f, picture, strength, magnitude: f.rotate(picture, 30 * strength),
    "brightness": lambda f, picture, strength, magnitude: f.adjust_brightness(picture, 1 + 0.9 * strength),
    "color": lambda f, picture, strength, magnitude: f.adjust_saturation(picture, 1 + 0.9 * strength),
    "contrast": lambda f, picture, strength, magnitude: f.adjust_contrast(picture, 1 + 0.9 * strength),
    "sharpness": lambda f, picture, strength, magnitude: f.adjust_sharpness(picture, 1 + 0.9 * strength),
    "posterize": lambda f, picture, strength, magnitude: f.posterize(picture, 8 - round(magnitude / ((_BINS - 1) / 4))),
    "solarize": lambda f, picture, strength, magnitude: f.solarize(picture, 255 * (1 - magnitude / (_BINS - 1))),
    "autocontrast": lambda f, picture, strength, magnitude: f.autocontrast(picture),
    "equalize": lambda f, picture, strength, magnitude: f.equalize(picture),
}
"""By name: of (torchvision's functions, picture, strength from -1 to 1, magnitude from 0 to 30)."""
OPERATIONS = tuple(_CHANGES)
"""Equally likely."""
