"""Scenes into pixels, with Pillow.

Coordinates of a thing are units of its radius around its centre: x to the right, y down, -1..1.
Everything is drawn at twice the size and reduced, which smooths the edges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from pipeline.sample_web.dice import Dice
from pipeline.sample_web.objects import OBJECTS
from pipeline.sample_web.scene import Scene
from pipeline.sample_web.vocabulary import BACKGROUNDS, COLOURS

__all__ = ["render"]

Point = tuple[float, float]
Rgb = tuple[int, int, int]

_RADIUS = {"small": 0.25, "middling": 0.34, "large": 0.43}
"""Of a lone thing, in units of the shorter side."""
_MAX_TILT_DEGREES = 9.0
_NOISE = 5
"""Half the width of the uniform noise, in levels of 255."""


def render(seed: int, scene: Scene) -> Image.Image:
    """The upright RGB picture of a scene."""
    dice = Dice(seed, "render", scene.key)
    width, height = 2 * scene.width, 2 * scene.height
    ground = _jitter(dice, BACKGROUNDS[scene.background], 10)
    canvas = Image.new("RGB", (width, height), ground)
    colour = _jitter(dice, COLOURS[scene.colour], 12)
    for x, y, radius in _positions(dice, scene, width, height):
        _draw_thing(canvas, dice, scene, (x, y), radius, colour)
    small = canvas.resize((scene.width, scene.height), Image.Resampling.BOX)
    return _with_light_and_noise(small, dice)


def _positions(dice: Dice, scene: Scene, width: int, height: int) -> list[tuple[float, float, float]]:
    """Centre and radius in pixels of each thing."""
    short = min(width, height)
    if scene.count > 1:
        columns = scene.count if width >= scene.count * 0.55 * height else 2
        rows = math.ceil(scene.count / columns)
        cell = min(width / columns, height / rows)
        places = []
        for i in range(scene.count):
            x = (i % columns + 0.5) * width / columns + dice.between(-0.04, 0.04) * cell
            y = (i // columns + 0.5) * height / rows + dice.between(-0.04, 0.04) * cell
            places.append((x, y, 0.40 * cell))
        return places
    radius = _RADIUS[scene.size] * short * dice.between(0.94, 1.04)
    x, y = width / 2, height / 2
    # Inside the middle square, so that a centre crop does not lose the thing.
    away = short / 2 - 1.1 * radius
    if scene.place == "left":
        x -= away
    elif scene.place == "right":
        x += away
    elif scene.place == "top":
        y -= away
    elif scene.place == "bottom":
        y += away
    return [(x + dice.between(-0.03, 0.03) * short, y + dice.between(-0.03, 0.03) * short, radius)]


def _draw_thing(canvas: Image.Image, dice: Dice, scene: Scene, centre: Point, radius: float, colour: Rgb) -> None:
    tilt = math.radians(dice.between(-_MAX_TILT_DEGREES, _MAX_TILT_DEGREES))
    draw = ImageDraw.Draw(canvas)
    if scene.thing in OBJECTS:
        for role, points in OBJECTS[scene.thing]:
            draw.polygon(_placed(points, centre, radius, tilt / 2), fill=_shade(role, colour))
        return
    if scene.pattern == "plain":
        mask_draw, fill = draw, colour
        _draw_shape(mask_draw, scene.thing, centre, radius, tilt, fill)
        return
    mask = Image.new("1", canvas.size, 0)
    _draw_shape(ImageDraw.Draw(mask), scene.thing, centre, radius, tilt, 1)
    canvas.paste(_patterned(canvas.size, scene.pattern, centre, radius, colour), mask=mask)


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, centre: Point, radius: float, tilt: float, fill: Rgb | int
) -> None:
    if shape == "ring":
        outline = _placed(_circle(1.0) + _circle(0.55)[::-1], centre, radius, 0.0)
        draw.polygon(outline, fill=fill)
        return
    draw.polygon(_placed(_SHAPES[shape], centre, radius, tilt), fill=fill)


def _patterned(size: tuple[int, int], pattern: str, centre: Point, radius: float, colour: Rgb) -> Image.Image:
    """The colour with stripes or dots of a lighter or darker tone of itself."""
    image = Image.new("RGB", size, colour)
    draw = ImageDraw.Draw(image)
    tone = _shade("dark" if sum(colour) > 360 else "light", colour)
    step = radius / 2.5
    x, y = centre
    for i in range(-4, 5):
        if pattern == "striped":
            left = x + i * step - step / 4
            draw.rectangle((left, y - 2 * radius, left + step / 2, y + 2 * radius), fill=tone)
            continue
        for j in range(-4, 5):
            middle_x, middle_y = x + (i + j % 2 / 2) * step, y + j * step
            r = step / 4.5
            draw.ellipse((middle_x - r, middle_y - r, middle_x + r, middle_y + r), fill=tone)
    return image


def _with_light_and_noise(image: Image.Image, dice: Dice) -> Image.Image:
    """A faint slope of light across the picture, and uniform noise."""
    pixels = np.asarray(image, np.int16)
    height, width = pixels.shape[:2]
    slope_x, slope_y = dice.between(-14, 14), dice.between(-14, 14)
    # Whole numbers only: floating-point sums could differ between processors.
    ramp_x = np.round(np.linspace(-slope_x, slope_x, width)).astype(np.int16)
    ramp_y = np.round(np.linspace(-slope_y, slope_y, height)).astype(np.int16)
    raw = np.random.PCG64(dice.bits()).random_raw((height * width + 7) // 8)
    noise = raw.view(np.uint8)[: height * width].reshape(height, width).astype(np.int16)
    noise = noise % (2 * _NOISE + 1) - _NOISE
    lit = pixels + (ramp_x[None, :] + ramp_y[:, None] + noise)[:, :, None]
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def _jitter(dice: Dice, colour: Rgb, width: int) -> Rgb:
    red, green, blue = (min(255, max(0, level + dice.below(2 * width + 1) - width)) for level in colour)
    return red, green, blue


def _shade(role: str, colour: Rgb) -> Rgb:
    if role == "main":
        return colour
    if role == "dark":
        red, green, blue = (int(level * 0.6) for level in colour)
        return red, green, blue
    if role == "light":
        red, green, blue = (int(level + (255 - level) * 0.45) for level in colour)
        return red, green, blue
    return _FIXED[role]


_FIXED: dict[str, Rgb] = {
    "wood": (112, 74, 40),
    "leaf": (52, 120, 50),
    "glass": (196, 222, 236),
    "metal": (94, 100, 108),
    "cream": (244, 232, 206),
}
"""Parts of objects that keep their colour whatever the object's."""


def _placed(points: Sequence[Point], centre: Point, radius: float, tilt: float) -> list[Point]:
    cos, sin = math.cos(tilt) * radius, math.sin(tilt) * radius
    # Rounded to 1/64 pixel, so that a last bit of a sine never moves an edge.
    return [
        (
            round((centre[0] + x * cos - y * sin) * 64) / 64,
            round((centre[1] + x * sin + y * cos) * 64) / 64,
        )
        for x, y in points
    ]


def _circle(radius: float, corners: int = 48) -> list[Point]:
    return [
        (radius * math.cos(2 * math.pi * i / corners), radius * math.sin(2 * math.pi * i / corners))
        for i in range(corners + 1)
    ]


def _star() -> list[Point]:
    points = []
    for i in range(10):
        length = 1.08 if i % 2 == 0 else 0.44
        angle = math.pi * i / 5 - math.pi / 2
        points.append((length * math.cos(angle), length * math.sin(angle)))
    return points


def _heart() -> list[Point]:
    points = []
    for i in range(60):
        t = 2 * math.pi * i / 60
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 16.5, -(y + 2.5) / 15.5))
    return points


def _crescent() -> list[Point]:
    outer = [(math.cos(math.radians(a)), math.sin(math.radians(a))) for a in range(50, 311, 10)]  # the disc's left side
    inner = [(0.28 + 0.84 * math.cos(math.radians(a)), 0.84 * math.sin(math.radians(a))) for a in range(294, 65, -10)]
    return outer + inner


_SHAPES: dict[str, list[Point]] = {
    "circle": _circle(0.98),
    "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "triangle": [(0, -1), (1.02, 0.84), (-1.02, 0.84)],
    "star": _star(),
    "heart": _heart(),
    "cross": [
        (-0.32, -1),
        (0.32, -1),
        (0.32, -0.32),
        (1, -0.32),
        (1, 0.32),
        (0.32, 0.32),
        (0.32, 1),
        (-0.32, 1),
        (-0.32, 0.32),
        (-1, 0.32),
        (-1, -0.32),
        (-0.32, -0.32),
    ],
    "diamond": [(0, -1.1), (0.68, 0), (0, 1.1), (-0.68, 0)],
    "crescent": _crescent(),
    "arrow": [(-1, -0.3), (0.15, -0.3), (0.15, -0.8), (1.05, 0), (0.15, 0.8), (0.15, 0.3), (-1, 0.3)],
}
