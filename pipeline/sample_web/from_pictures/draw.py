"""Pictures as pages show them: on a ground, in a size, with room around."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from pipeline.sample_web.dice import Dice
from pipeline.sample_web.from_pictures.read import picture_bytes
from pipeline.sample_web.vocabulary import BACKGROUNDS

__all__ = ["drawn", "drawn_for_evaluation"]

Rgb = tuple[int, int, int]

_SIDES = ((64, 0.15), (96, 0.2), (128, 0.35), (160, 0.15), (192, 0.1), (256, 0.05))
"""Pixels of the shorter side."""
_WHITE: Rgb = (255, 255, 255)
_GROUNDS: tuple[tuple[Rgb, float], ...] = (
    (_WHITE, 0.45),
    ((244, 244, 240), 0.15),
    *((colour, 0.3 / len(BACKGROUNDS)) for colour in BACKGROUNDS.values()),
    ((24, 24, 28), 0.1),
)
_EVALUATION_SIDE = 128


def drawn(seed: int, key: str, directory: Path, picture: str) -> Image.Image:
    """The view `key` of a picture: an upright RGB picture."""
    dice = Dice(seed, "view of a picture", key)
    short = dice.weighted(_SIDES)
    long = int(short * dice.weighted([(1.0, 0.75), (1.25, 0.15), (1.5, 0.1)]))
    size = (long, short) if dice.chance(0.7) else (short, long)
    red, green, blue = (min(255, max(0, level + dice.below(13) - 6)) for level in dice.weighted(_GROUNDS))
    fill = dice.between(0.72, 1.0)
    at = (dice.between(0.3, 0.7), dice.between(0.3, 0.7))
    return _placed(picture_bytes(directory, picture), size, (red, green, blue), fill, at)


def drawn_for_evaluation(directory: Path, picture: str, ground: Rgb = _WHITE) -> Image.Image:
    """The picture in the middle of a square."""
    size = (_EVALUATION_SIDE, _EVALUATION_SIDE)
    return _placed(picture_bytes(directory, picture), size, ground, 0.9, (0.5, 0.5))


def _placed(data: bytes, size: tuple[int, int], ground: Rgb, fill: float, at: tuple[float, float]) -> Image.Image:
    """The picture on a ground, filling a share of the shorter side, with the rest of the room parted by `at`."""
    with Image.open(io.BytesIO(data)) as opened:
        picture = opened.convert("RGBA")
    scale = fill * min(size) / max(picture.size)
    small = picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.BICUBIC
    )
    canvas = Image.new("RGB", size, ground)
    place = (round((size[0] - small.width) * at[0]), round((size[1] - small.height) * at[1]))
    canvas.paste(small, place, small)
    return canvas
