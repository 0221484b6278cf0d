"""Simple pictures by Pillow: shapes of plain colour and digits, on a pale ground. No font but Pillow's own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

__all__ = ["COLOURS", "SHAPES", "SIDE", "Thing", "draw", "draw_digit"]

COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 87, 200),
    "yellow": (240, 200, 0),
    "black": (20, 20, 20),
    "purple": (128, 40, 160),
}
SHAPES = ("circle", "square", "triangle", "star")
SIDE = 256
"""Pixels of a drawn picture, before the model's own resizing."""
_FINER = 2
"""Drawn so much larger, then scaled down, for smooth edges."""
_CORNERS = {"square": 4, "triangle": 3, "star": 5}


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One shape in a picture."""

    shape: str
    colour: str
    x: float
    """Of its middle, in sides of the picture, from the left."""
    y: float
    """From the top."""
    radius: float
    """In sides of the picture."""


def draw(things: list[Thing], ground: int) -> npt.NDArray[np.uint8]:
    """RGB uint8[SIDE, SIDE, 3]; `ground` is a level of grey."""
    side = SIDE * _FINER
    picture = Image.new("RGB", (side, side), (ground,) * 3)
    pen = ImageDraw.Draw(picture)
    for thing in things:
        x, y, radius = thing.x * side, thing.y * side, thing.radius * side
        colour = COLOURS[thing.colour]
        if thing.shape == "circle":
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        else:
            pen.polygon(_corners(thing.shape, x, y, radius), fill=colour)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX))


def _corners(shape: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    count = _CORNERS[shape]
    turn = math.pi / 4 if shape == "square" else 0.0
    angles = [turn + 2 * math.pi * i / count for i in range(count)]
    outer = [(x + radius * math.sin(a), y - radius * math.cos(a)) for a in angles]
    if shape != "star":
        return outer
    half = math.pi / count
    inner = [(x + 0.4 * radius * math.sin(a + half), y - 0.4 * radius * math.cos(a + half)) for a in angles]
    return [corner for pair in zip(outer, inner, strict=True) for corner in pair]


def draw_digit(digit: int, *, x: float, y: float, height: float, colour: str, ground: int) -> npt.NDArray[np.uint8]:
    """The same with a digit, `height` sides of the picture high, its middle at (x, y)."""
    side = SIDE * _FINER
    picture = Image.new("RGB", (side, side), (ground,) * 3)
    font = ImageFont.load_default(size=height * side * 1.4)  # a digit is 0.7 of the size in Pillow's own font
    ImageDraw.Draw(picture).text((x * side, y * side), str(digit), fill=COLOURS[colour], font=font, anchor="mm")
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX))
